"""What a ranking took, where the clients of each format look for it."""

import math
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.core.messages import Ranking

DOCUMENTS_PER_SEARCH_UNIT = 100  # Cohere's unit of account


class TokenUsage(TypedDict):
    prompt_tokens: Annotated[int, Field(description="tokens scored, in all stages")]
    total_tokens: Annotated[int, Field(description="the same")]


class BilledUnits(TypedDict):
    search_units: Annotated[
        int, Field(description=f"one for each {DOCUMENTS_PER_SEARCH_UNIT} documents begun of a query")
    ]


class MetaTokens(TypedDict):
    input_tokens: Annotated[int, Field(description="tokens scored, in all stages")]


class Meta(TypedDict):
    api_version: NotRequired[dict[str, str]]
    billed_units: BilledUnits
    tokens: MetaTokens


def usage(ranking: Ranking) -> TokenUsage:
    """Where clients of Jina, Voyage, vLLM, infinity and NIM look."""
    return {"prompt_tokens": ranking.tokens, "total_tokens": ranking.tokens}


def meta(ranking: Ranking) -> Meta:
    """Where clients of Cohere look."""
    counts = ranking.counts or (len(ranking.texts),)
    units = sum(math.ceil(count / DOCUMENTS_PER_SEARCH_UNIT) for count in counts)
    return {"billed_units": {"search_units": units}, "tokens": {"input_tokens": ranking.tokens}}
