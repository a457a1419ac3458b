"""Wire formats as a client writes and reads them: one record for each. The server's side is in `api/dialects`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfleet.core.errors import RankfleetError

Body = dict[str, Any]


@dataclass(frozen=True)
class Hosted:
    """A format's service on the internet. keys: environment variables that may hold its key, the first in messages."""

    address: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class WireFormat:
    """body: of a query, documents and the name of a model, if any. rows: the key of the list of results, None where the
    reply is that list; score: the key of a result's score."""

    name: str
    path: str
    body: Callable[[str, list[str], str | None], Body]
    rows: str | None
    score: str
    hosted: Hosted | None = None

    def scores(self, reply: Any, documents: int) -> np.ndarray:
        """float64 [documents], in the order in which they were sent. Raises RankfleetError for a reply of another form,
        or with other than one finite score for each document."""
        found = reply if isinstance(reply, dict) else {}
        rows = found.get(self.rows) if self.rows else reply
        if not isinstance(rows, list):
            there = (
                f"an object with {', '.join(reply) or 'nothing'}" if isinstance(reply, dict) else "a list or a value"
            )
            wanted = f"a list as `{self.rows}`" if self.rows else "a list of results"
            raise RankfleetError(f"the reply is not in the format {self.name}: it should have {wanted}, and is {there}")
        scores = np.full(documents, np.nan)
        for row in rows:
            try:
                index, score = row["index"], float(row[self.score])
            except (TypeError, KeyError, ValueError):
                raise RankfleetError(
                    f"the reply is not in the format {self.name}: a result should have `index` and `{self.score}`, and "
                    f"is {str(row)[:80]}"
                ) from None
            if not isinstance(index, int) or not 0 <= index < documents:
                raise RankfleetError(f"the reply scores document {index!r:.20}, and {documents} were sent")
            scores[index] = score
        if missing := int((~np.isfinite(scores)).sum()):
            raise RankfleetError(f"the reply has scores for {documents - missing} of {documents} documents")
        return scores

    def billed(self, reply: Any) -> tuple[float, float]:
        """(searches, tokens) of the bill: a request is one search, and no tokens, where the reply does not say."""
        found = reply if isinstance(reply, Mapping) else {}
        units, usage = ((found.get(key) or {}) for key in ("meta", "usage"))
        searches = (units.get("billed_units") or {}).get("search_units") or 1
        return float(searches), float(usage.get("total_tokens") or 0)


def with_documents(query: str, documents: Sequence[str], model: str | None, **more: Any) -> Body:
    return {"query": query, "documents": [*documents], **({"model": model} if model else {}), **more}


def tei(query: str, documents: Sequence[str], model: str | None) -> Body:
    return {"query": query, "texts": [*documents], "truncate": True, "raw_scores": True}


def nim(query: str, documents: Sequence[str], model: str | None) -> Body:
    named = {"model": model} if model else {}
    return {"query": {"text": query}, "passages": [{"text": text} for text in documents], "truncate": "END", **named}


def returning_nothing(query: str, documents: Sequence[str], model: str | None) -> Body:
    return with_documents(query, documents, model, return_documents=False)


def infinity(query: str, documents: Sequence[str], model: str | None) -> Body:
    return with_documents(query, documents, model, return_documents=False, raw_scores=True)


RESULTS = ("results", "relevance_score")
FORMATS = {
    each.name: each
    for each in (
        WireFormat(
            "cohere",
            "/v2/rerank",
            with_documents,
            *RESULTS,
            Hosted("https://api.cohere.com", ("CO_API_KEY", "COHERE_API_KEY")),
        ),
        WireFormat("jina", "/v1/rerank", returning_nothing, *RESULTS, Hosted("https://api.jina.ai", ("JINA_API_KEY",))),
        WireFormat(
            "voyage",
            "/v1/rerank",
            returning_nothing,
            "data",
            "relevance_score",
            Hosted("https://api.voyageai.com", ("VOYAGE_API_KEY",)),
        ),
        WireFormat("tei", "/rerank", tei, None, "score"),
        WireFormat("vllm", "/rerank", with_documents, *RESULTS),
        WireFormat("infinity", "/rerank", infinity, *RESULTS),
        WireFormat("sglang", "/v1/rerank", with_documents, None, "score"),
        WireFormat("nim", "/v1/ranking", nim, "rankings", "logit"),
    )
}
