"""Run files: which documents a retriever found for each query, in the shapes of TREC and MS MARCO."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.retrieval.judgements import DOCUMENT_IDS, QUERY_IDS
from rankfleet.retrieval.records import Kind, checked_id, read_records

RUN = Kind(
    "a run has the columns query id, Q0, document id, rank, score, name (TREC) or query id, document id, rank (MS "
    'MARCO), or is JSON lines of {"query_id", "doc_id", "score"}',
    [{"query": QUERY_IDS, "document": DOCUMENT_IDS, "rank": ("rank",), "score": ("score",)}],
    optional=frozenset({"rank", "score"}),
    numbers=frozenset({"rank", "score"}),
    columns={3: ("qid", "docid", "rank"), 6: ("qid", "q0", "docid", "rank", "score", "name")},
    spaces=True,
)


def read_run(file: Path) -> Mapping[str, Sequence[tuple[str, float]]]:
    """{query id: [(document id, score), …]}, best first: by score, as trec_eval has it, and by rank among equals.

    Where there are no scores, a score is the rank with a minus before it. Raises InvalidRequest that names file and
    line, also where a query has a document twice, and where ranks and scores contradict each other.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}  # by query and document: (score, rank)
    scored = set[bool]()
    for number, record in read_records(file, RUN):
        query, document = checked_id(record["query"]), checked_id(record["document"])
        rank, score = record["rank"], record["score"]
        if query is None or document is None or not is_number(rank) or not is_number(score) or rank is score is None:
            raise InvalidRequest(f"{file}:{number}: an id is missing, or rank or score is no number; {RUN.needs}")
        if document in found.setdefault(query, {}):
            raise InvalidRequest(f"{file}:{number}: the query {quote(query)} has the document {quote(document)} twice")
        scored.add(score is not None)
        found[query][document] = (-rank if score is None else score, rank or 0)
    if len(scored) != 1:
        raise InvalidRequest(f"{file} {'has scores on some lines only' if scored else 'holds no ranking'}; {RUN.needs}")
    rankings = {q: sorted(places.items(), key=lambda item: (-item[1][0], item[1][1])) for q, places in found.items()}
    for query, ranking in rankings.items():
        for (better, (_, rank)), (worse, (_, below)) in itertools.pairwise(ranking):
            if rank > below:
                raise InvalidRequest(
                    f"{file}: which order counts for the query {quote(query)}? By score {quote(better)} comes before "
                    f"{quote(worse)}, by rank after it. Leave out ranks or scores, under a line of column names"
                )
            if rank == below and not all(scored):
                raise InvalidRequest(
                    f"{file}: the query {quote(query)} has two documents with the rank {rank:g} and no scores; "
                    f"{RUN.needs}"
                )
    return {query: [(name, score) for name, (score, _) in ranking] for query, ranking in rankings.items()}


def is_number(value: object) -> bool:
    """Whether a rank or score is finite, or not there."""
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
