"""Relevance judgements and queries: one file of each, in the shapes of BEIR, TREC, MS MARCO and JSON."""

import re
from pathlib import Path

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.retrieval.records import Kind, checked_id, read_records

QUERY_IDS, DOCUMENT_IDS = ("query-id", "query_id", "qid"), ("corpus-id", "corpus_id", "doc_id", "docid", "docno", "pid")

JUDGEMENTS = Kind(
    "judgements have the columns query id, document id, grade (BEIR) or query id, 0, document id, grade (TREC, MS "
    'MARCO), or are JSON lines of {"query-id", "corpus-id", "score"}',
    [
        {
            "query": QUERY_IDS,
            "document": (*DOCUMENT_IDS, "second of three"),
            "grade": ("score", "relevance", "rel", "label", "grade"),
            "unnamed": ("second of three",),
            "iteration": ("second of four",),
        }
    ],
    optional=frozenset({"unnamed", "iteration"}),
    columns={3: ("qid", "second of three", "grade"), 4: ("qid", "second of four", "docid", "grade")},
    spaces=True,
)
# Six digits are enough for clicks, and not for a time stamp or a document id in the wrong column.
GRADE = re.compile(r"[+-]?[0-9]{1,6}(?:\.0*)?")
SECOND = (
    "is {} in the second column a document, or what TREC has there (0 or Q0)? Begin the file with a line of column "
    "names, such as: query-id, corpus-id, score"
)
ITERATION = re.compile(r"[Qq]?[0-9]+(?:\.[0-9]+)?")  # 0 mostly; TREC-COVID has its rounds, such as 4.5

QUERIES = Kind(
    'queries are JSON lines of {"_id", "text"}, or have the columns id and text with a tab between them',
    [{"id": ("_id", "id", *QUERY_IDS), "text": ("text", "query")}],
    columns={2: ("id", "text")},
)


def read_judgements(file: Path) -> dict[str, dict[str, int]]:
    """{query id: {document id: grade}}, grades above 0 for relevant.

    Raises InvalidRequest that names file and line, and where a document has two grades for one query.
    """
    found: dict[str, dict[str, int]] = {}
    documents, iterations, named = set[str](), set[str](), True
    for number, record in read_records(file, JUDGEMENTS):
        query, document, grade = checked_id(record["query"]), checked_id(record["document"]), record["grade"]
        where, iteration = f"{file}:{number}", record["iteration"] or "0"
        if query is None or document is None:
            raise InvalidRequest(f"{where}: an id is neither text nor a whole number; {JUDGEMENTS.needs}")
        if not ITERATION.fullmatch(iteration):
            raise InvalidRequest(f"{where}: {SECOND.format(quote(iteration))}")
        if isinstance(grade, bool) or not GRADE.fullmatch(str(grade)):
            raise InvalidRequest(f"{where}: the grade {quote(str(grade))} is not a whole number; {JUDGEMENTS.needs}")
        grades, value = found.setdefault(query, {}), int(float(grade))
        if grades.setdefault(document, value) != value:
            raise InvalidRequest(
                f"{where}: the query {quote(query)} has the document {quote(document)} with grade {value} here and "
                f"{grades[document]} before; leave the one that counts"
            )
        documents.add(document)
        iterations.add(iteration)
        named = record["unnamed"] is None
    if not found:
        raise InvalidRequest(f"{file} holds no judgements; {JUDGEMENTS.needs}")
    if len(iterations) > len(documents) or (not named and documents <= {"0", "Q0"}):
        raise InvalidRequest(f"{file}: {SECOND.format(quote(min(iterations if named else documents)))}")
    return found


def read_query_texts(file: Path) -> dict[str, str]:
    """{query id: text}. Raises InvalidRequest that names file and line, and where one id has two texts."""
    found: dict[str, str] = {}
    for number, record in read_records(file, QUERIES):
        name, text = checked_id(record["id"]), record["text"]
        if name is None or not isinstance(text, str) or not text.strip():
            raise InvalidRequest(
                f"{file}:{number}: an id or a text is empty, or the text is not a string; {QUERIES.needs}"
            )
        if found.setdefault(name, text) != text:
            raise InvalidRequest(
                f"{file}:{number}: the query {quote(name)} is {quote(text)} here and {quote(found[name])} before"
            )
    if not found:
        raise InvalidRequest(f"{file} holds no queries; {QUERIES.needs}")
    return found
