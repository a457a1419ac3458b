"""The fields by which requests say what is to be done with their texts, as several formats have them."""

from typing import Annotated

from pydantic import AfterValidator, Field

from rankfleet.core.text_options import AS_SENT, Side, TextOptions


def check_pair_tokens(tokens: int) -> int:
    """The number unchanged. Raises ValueError unless it is -1 or at least 1."""
    if tokens == -1 or tokens >= 1:
        return tokens
    raise ValueError("should be at least 1, or -1 for as many as the tier takes")


Instruction = Annotated[
    str | None,
    Field(
        description="what to look for, put where the model's prompt shows an instruction; tiers whose prompt shows "
        "none do not answer"
    ),
]
QueryTokens = Annotated[
    int | None, Field(ge=0, description="a longer query keeps its first tokens; no limit if 0 or left out")
]
DocumentTokens = Annotated[
    int | None, Field(ge=0, description="a longer document keeps its first tokens; no limit if 0 or left out")
]
PairTokens = Annotated[
    Annotated[int, AfterValidator(check_pair_tokens)] | None,
    Field(description="pairs of query and document are cut to this length; -1: to what the tier takes, as if left out"),
]
CutSide = Annotated[
    Side | None, Field(description="side of texts that is cut off where a pair is too long; `right` if left out")
]


def text_options(
    *,
    instruction: str | None = None,
    query_tokens: int | None = None,
    document_tokens: int | None = None,
    pair_tokens: int | None = None,
    cut_side: Side | None = None,
    may_cut: bool | None = None,
    max_passages: int | None = None,
) -> TextOptions:
    """What a body asks for by these fields. None, 0, an empty instruction and -1 are the same as leaving one out."""
    options = TextOptions(
        instruction or None,
        query_tokens or None,
        document_tokens or None,
        None if pair_tokens == -1 else pair_tokens,
        cut_side or "right",
        may_cut is not False,
        max_passages,
    )
    return AS_SENT if options == AS_SENT else options
