"""Queries to train on: read from a file, or made of the documents' titles and first sentences."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.retrieval.corpus import Document, judged_files, read_judged
from rankfleet.retrieval.records import Kind, read_records

QUERIES = Kind(
    'a query needs its text under "text" or "query", in JSON lines or Parquet; or a file of text has one on each line, '
    "or id and text with a tab between them",
    [{"text": ("text", "query"), "positives": ("positives",)}],
    optional=frozenset({"positives"}),
    columns={1: ("text",), 2: ("id", "text")},
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
MIN_TITLE_WORDS, MIN_SENTENCE_WORDS, MAX_WORDS = 2, 4, 32
MIN_REST_WORDS = 20  # below, a document is kept whole, since too little would be left of it
BOILERPLATE = 3  # a sentence that more documents begin with asks for none of them


@dataclass(frozen=True)
class Query:
    """A query. positives: ids of documents that are known to answer it, with the text to train on instead of the whole
    document, if any; made: whether it was made of them."""

    text: str
    positives: Mapping[str, str | None] = field(default_factory=dict)
    made: bool = False


def make_questions(documents: Iterable[Document]) -> list[Query]:
    """Each document's title and first sentence as queries that it answers.

    The document is trained on without the words that became the query: otherwise the student would learn to look for
    exactly these (the inverse cloze task of Lee et al., 2019, https://arxiv.org/abs/1906.00300).
    """
    found: dict[str, dict[str, str | None]] = defaultdict(dict)
    for document in documents:
        for words in openings(document):
            rest = document.text.replace(words, "", 1).strip(" .")
            found[" ".join(words.split()).strip(" .")][document.id] = rest if enough(rest, MIN_REST_WORDS) else None
    return [Query(text, positives, True) for text, positives in found.items() if len(positives) <= BOILERPLATE]


def openings(document: Document) -> Iterator[str]:
    """A document's title, and the first sentence of its body that is long enough, each cut to MAX_WORDS."""
    if enough(document.title, MIN_TITLE_WORDS):
        yield first_words(document.title)
    sentences = SENTENCE_END.split(document.text.removeprefix(document.title).strip())
    yield from [first_words(sentence) for sentence in sentences if enough(sentence, MIN_SENTENCE_WORDS)][:1]


def enough(text: str, words: int) -> bool:
    return len(text.split()) >= words


def first_words(text: str) -> str:
    """The beginning of a text, MAX_WORDS long."""
    cut = re.match(rf"\s*(?:\S+\s+){{{MAX_WORDS - 1}}}\S+", text)
    return cut[0] if cut else text


def sample(queries: list[Query], count: int | None, seed: int) -> list[Query]:
    """At most `count` of the queries, in their order; the same for the same seed."""
    if count is None or len(queries) <= count:
        return queries
    kept = sorted(random.Random(seed).sample(range(len(queries)), count))
    return [queries[i] for i in kept]


def query_files(source: Path) -> list[Path]:
    """The files that `read_queries` reads."""
    return list(judged_files(source, "train")) if source.is_dir() else [source]


def read_queries(source: Path, known: Mapping[str, str]) -> list[Query]:
    """The queries of a file, or those of a folder that are judged in qrels/train.tsv.

    positives: id or list of ids of documents. known: the documents' texts by id. Raises InvalidRequest that names file
    and line.
    """
    if source.is_dir():
        judged = read_judged(source, "train")  # the other splits are there to measure with
        queries = [
            Query(text, {name: None for name, grade in judged.qrels[q].items() if grade > 0 and name in known})
            for q, text in judged.queries.items()
        ]
        if not any(query.positives for query in queries):
            raise InvalidRequest(f"{query_files(source)[1]}: no document that it judges relevant is there")
        return queries
    found: dict[str, dict[str, str | None]] = defaultdict(dict)
    for number, record in read_records(source, QUERIES):
        text, positives = record["text"], record["positives"] or []
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest(f"{source}:{number}: {QUERIES.needs}; this one is {quote(str(text))}")
        for name in positives if isinstance(positives, list) else [positives]:
            if str(name) not in known:
                raise InvalidRequest(f"{source}:{number}: no document has the id {quote(str(name))} (in positives)")
            found[text][str(name)] = None
        found[text]  # also where it has none
    if not found:
        raise InvalidRequest(f"{source} holds no queries; {QUERIES.needs}")
    return [Query(text, positives) for text, positives in found.items()]
