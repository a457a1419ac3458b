"""What a document is worth, and how its row reads, in every dialect but the native one."""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from rankfleet.api.dialects.rerank_body import ParsedRerank
from rankfleet.core.messages import RankedDocument, Ranking

UNSCORED_RAW = -1000.0  # of a document that was not scored: its sigmoid is 0 in float64


class ObjectRow(TypedDict):
    """A result whose document is an object, as Cohere, Jina and vLLM have it."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, Any]]


class TextRow(TypedDict):
    """A result whose document is a string, as Voyage and infinity have it."""

    index: int
    relevance_score: float
    document: NotRequired[str]


def score_of(document: RankedDocument, raw: bool) -> float:
    """The document's relevance, or what the order follows as it is (`raw`). Neither rises from one result to the
    next."""
    if not raw:
        return document.relevance
    return UNSCORED_RAW if document.score is None else document.score


def rows(
    ranking: Ranking, parsed: ParsedRerank, score: str, document: str = "document", as_text: bool = False
) -> list[dict[str, Any]]:
    """Results best first. score, document: names of these fields. as_text: documents as strings and not as objects.
    There is no field for documents that are not to be returned."""
    results: list[dict[str, Any]] = []
    for ranked in ranking.documents:
        result: dict[str, Any] = {"index": ranked.index, score: score_of(ranked, parsed.raw_scores)}
        if parsed.spans is not None and ranked.span is not None:
            result |= parsed.spans.fields(ranked.span)
        if parsed.documents is not None:
            sent, text = parsed.documents[ranked.index], ranking.texts[ranked.index]
            result[document] = text if as_text else {"text": sent} if isinstance(sent, str) else sent
        results.append(result)
    return results
