"""Relevant spans in Cohere's form: where in a document the passage is that scored best."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

from rankfleet.core.errors import InvalidRequest
from rankfleet.core.messages import PassageSpan
from rankfleet.core.passages import LongDocuments

DEFAULT_THRESHOLD = 0.1  # Cohere's


class SpansAskedFor(BaseModel):
    """threshold: lowest score of a span, 0 to 1. max_spans: of a document; there is never more than one."""

    model_config = ConfigDict(strict=True, extra="forbid")

    mode: Literal["enabled", "disabled"]
    threshold: float | None = Field(None, ge=0, le=1)
    max_spans: int | None = Field(None, ge=1)

    def fields(self, span: PassageSpan) -> dict[str, Any]:
        """What a result has besides."""
        threshold = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        if span.relevance < threshold or span.start == span.stop:
            return {}
        return {"relevant_spans": [{"start": span.start, "end": span.stop, "score": span.relevance}]}


NUMBER_OR_NULL: dict[str, Any] = {"minimum": 0, "maximum": 1, "type": ["number", "null"]}
RelevantSpans = Annotated[
    SpansAskedFor | None,
    Field(
        description="`mode: enabled` adds the passage that scored best to each result, and reads long documents in "
        f"passages; left out if it scores below `threshold`, {DEFAULT_THRESHOLD} if null"
    ),
    WithJsonSchema(
        {
            "type": ["object", "null"],
            "properties": {
                "mode": {"enum": ["enabled", "disabled"]},
                "threshold": NUMBER_OR_NULL,
                "max_spans": {"type": ["integer", "null"], "minimum": 1},
            },
            "required": ["mode"],
            "additionalProperties": False,
        }
    ),
]


class Span(TypedDict):
    start: Annotated[int, Field(description="the first character, in Unicode code points from 0")]
    end: Annotated[int, Field(description="the first character behind it")]
    score: Annotated[float, Field(description="relevance of the passage, without fusion", ge=0, le=1)]


def spans_wanted(asked: SpansAskedFor | None, long_documents: LongDocuments | None = None) -> dict[str, Any]:
    """Fields of `RerankRequest`. Raises InvalidRequest where the beginning alone is to be read."""
    if asked is None or asked.mode == "disabled":
        return {"long_documents": long_documents}
    if long_documents == "truncate":
        raise InvalidRequest(
            "request body: relevant_spans: are passages of documents; leave long_documents out, or send max_passage"
        )
    return {"spans": True, "long_documents": "max_passage"}
