"""Training data: queries with documents, read from a file of pairs or mined from a corpus."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.retrieval.records import Kind, read_records

PAIRS = Kind(
    'needs "query" and "document" as text, in JSON lines or Parquet; or has the columns query, document and score with '
    "tabs between them, others under a line of column names",
    [{"query": ("query",), "document": ("document",), "score": ("score",)}],
    optional=frozenset({"score"}),
    columns={3: ("query", "document", "score")},
    numbers=frozenset({"score"}),
)


@dataclass(frozen=True)
class Group:
    """A query with documents that are scored together.

    key: decides whether the query is held back (`held_back.py`); positives: places of documents that are known to
    answer it; made: whether the query was made of a document; scores: raw logits, None until a teacher has scored.
    """

    query: str
    documents: Sequence[str]
    key: str
    positives: tuple[int, ...] = ()
    made: bool = False
    scores: Sequence[float] | None = None


@dataclass(frozen=True)
class PairFile:
    """What a file of pairs holds. groups: runs of neighbouring lines with one query; scored: whether every pair has a
    score."""

    pairs: int
    groups: int
    queries: int
    scored: bool


def read_pairs(file: Path, limit: int | None = None) -> Iterator[Group]:
    """The pairs of a file, neighbouring lines with one query as one group.

    Other columns are ignored, and a score of null counts as none. limit: read only the first pairs. Raises
    InvalidRequest that names file and line.
    """
    rows = (checked_pair(f"{file}:{number}", record) for number, record in islice(read_records(file, PAIRS), limit))
    for query, neighbours in groupby(rows, key=itemgetter(0)):
        _, documents, scores = zip(*neighbours, strict=True)
        yield Group(query, documents, query, scores=None if None in scores else scores)


def checked_pair(line: str, record: dict[str, Any]) -> tuple[str, str, float | None]:
    """(query, document, score) of one line. Raises InvalidRequest that says what is wrong with it."""
    query, document, score = record.get("query"), record.get("document"), record.get("score")
    for name, text in (("query", query), ("document", document)):
        if not isinstance(text, str):
            raise InvalidRequest(f"{line}: {PAIRS.needs}; {name!r} is {quote(str(text))}")
    if not str(query).strip():
        raise InvalidRequest(f"{line}: the query is empty")
    if score is None:
        return str(query), str(document), None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise InvalidRequest(f'{line}: "score" is {quote(str(score))}, not a number')
    if not math.isfinite(score):
        raise InvalidRequest(f'{line}: "score" is {score}, not a finite number')
    return str(query), str(document), float(score)


def check_pairs(file: Path, limit: int | None = None) -> PairFile:
    """Read the whole file, so that nothing is trained on half of it.

    Raises InvalidRequest for what `read_pairs` refuses, for a file without pairs, with scores on some of its lines
    only, or with one score on all.
    """
    pairs, groups, unscored, queries, last = 0, 0, 0, set[str](), ""
    lowest, highest = math.inf, -math.inf
    for number, record in islice(read_records(file, PAIRS), limit):
        query, _, score = checked_pair(f"{file}:{number}", record)
        pairs, groups, last = pairs + 1, groups + (query != last), query
        queries.add(query)
        if score is None:
            unscored += 1
        else:
            lowest, highest = min(lowest, score), max(highest, score)
        if 0 < unscored < pairs:
            has = "no score, unlike the lines before it" if score is None else "a score, unlike the lines before it"
            raise InvalidRequest(f"{file}:{number}: has {has}; give all pairs a score, or none of them")
    if not pairs:
        raise InvalidRequest(f"{file} holds no pairs")
    if not unscored and lowest == highest and pairs > 1:
        raise InvalidRequest(f"{file}: all {pairs} scores are {lowest:g}; there is nothing to learn from them")
    return PairFile(pairs, groups, len(queries), not unscored)
