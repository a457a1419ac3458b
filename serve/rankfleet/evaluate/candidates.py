"""Judged queries with their candidates, and the tiers' scores of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.retrieval.bm25 import Bm25Index, Hit
from rankfleet.retrieval.corpus import Document, Judged, read_documents, read_judged
from rankfleet.retrieval.runs import read_run

Candidates = Mapping[str, Sequence[Hit]]  # by query, in the retriever's order


@dataclass(frozen=True)
class ScoredCandidates:
    """One model's scores of all candidates.

    logits: by query; times_ms: of the queries that were scored one at a time, tokenizing included; seconds: of all
    queries; searches, tokens: what a server counts for its bill.
    """

    logits: Mapping[str, np.ndarray]
    times_ms: Sequence[float] = ()
    seconds: float = 0.0
    searches: float = 0.0
    tokens: float = 0.0

    @property
    def pairs(self) -> int:
        return sum(map(len, self.logits.values()))


@dataclass(frozen=True)
class Collection:
    """One data set. documents: how many were searched; scored: by tier, from small to large; against: by name, of whom
    tiers are compared with; retriever: who found the candidates; notes: what a reader of the figures should know about
    the data."""

    name: str
    documents: int
    judged: Judged
    candidates: Candidates
    scored: Mapping[str, ScoredCandidates] = field(default_factory=dict)
    against: Mapping[str, ScoredCandidates] = field(default_factory=dict)
    retriever: str = "bm25"
    notes: Sequence[str] = ()

    @staticmethod
    def read(
        folder: Path, top_k: int, queries: int | None = None, split: str | None = None, run: Path | None = None
    ) -> "Collection":
        """The judged queries of a folder, with BM25's top_k candidates, not scored yet.

        queries: use only so many, from the first; split: as in `read_judged`; run: a run file, whose candidates count
        instead. Raises InvalidRequest that names the file, also where judgements or run belong to other documents.
        """
        judged = read_judged(folder, split)
        documents = list(read_documents(folder))
        texts = {document.id: document.text for document in documents}
        relevant = [d for grades in judged.qrels.values() for d, grade in grades.items() if grade > 0]
        missing = sum(name not in texts for name in relevant)
        if missing == len(relevant):
            raise InvalidRequest(
                f"{folder}: none of {missing} relevant documents is in the corpus: {quote(relevant[0])} is judged, and "
                f"{quote(documents[0].id)} is the first document"
            )
        kept = list(judged.queries)[:queries]
        judged = Judged({q: judged.queries[q] for q in kept}, {q: judged.qrels[q] for q in kept}, judged.without_text)
        own = {document.id for document in documents if document.id in judged.queries and is_own(document, judged)}
        if run is None:
            found = retrieve(Bm25Index.build(documents), judged, top_k + 1)
        else:
            found = candidates_of(run, judged, texts, top_k + 1)
        candidates = {q: [hit for hit in hits if hit.id != q or q not in own][:top_k] for q, hits in found.items()}
        empty = sum(not hits for hits in candidates.values())
        notes = {
            f"judged queries without a text, left out: {judged.without_text}": judged.without_text,
            "relevant judgements of documents that are not in the corpus, counted in the ideal ranking: "
            f"{missing} of {len(relevant)}": missing,
            f"queries whose own document is in the corpus, left out of their candidates: {len(own)}": len(own),
            f"queries without candidates, counted as 0: {empty}": empty,
        }
        said = [note for note, count in notes.items() if count]
        name, retriever = folder.resolve().name, "bm25" if run is None else "run"
        return Collection(name, len(documents), judged, candidates, retriever=retriever, notes=said)

    def only(self, queries: Sequence[str]) -> "Collection":
        """With these of its queries alone, in this order."""
        whole = self.judged
        judged = Judged(
            {q: whole.queries[q] for q in queries}, {q: whole.qrels[q] for q in queries}, whole.without_text
        )
        return replace(self, judged=judged, candidates={q: self.candidates[q] for q in queries})


def retrieve(index: Bm25Index, judged: Judged, top_k: int) -> dict[str, list[Hit]]:
    """BM25's candidates of every judged query."""
    return {name: index.search(text, top_k) for name, text in judged.queries.items()}


def candidates_of(run: Path, judged: Judged, texts: Mapping[str, str], top_k: int) -> dict[str, list[Hit]]:
    """The candidates of a run file for every judged query. texts: of the documents, by id.

    Raises InvalidRequest where the run has none of the queries, or a document that is not among the texts.
    """
    rankings, found = read_run(run), dict[str, list[Hit]]()
    if not rankings.keys() & judged.queries.keys():
        first = quote(next(iter(rankings)))
        raise InvalidRequest(
            f"{run}: none of the {len(judged.queries)} judged queries is there; it begins with {first}"
        )
    for query in judged.queries:
        ranking = rankings.get(query, ())[:top_k]
        for name, _ in ranking:
            if name not in texts:
                raise InvalidRequest(
                    f"{run}: the document {quote(name)} of the query {quote(query)} is not in the corpus"
                )
        found[query] = [Hit(name, texts[name], score) for name, score in ranking]
    return found


def is_own(document: Document, judged: Judged) -> bool:
    """Whether a document with the id of a query is that query, as in ArguAna and Quora.

    BEIR leaves out every document with the query's id (`ignore_identical_ids`). Where ids are numbers, a document has
    a query's id by chance; then its text differs. Nor is it left out where it is judged relevant.
    """
    body = document.text.removeprefix(document.title)
    query, *texts = (
        " ".join(text.split()).casefold() for text in (judged.queries[document.id], document.title, body, document.text)
    )
    return query in texts and judged.qrels[document.id].get(document.id, 0) <= 0
