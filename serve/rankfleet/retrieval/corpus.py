"""Collections on disk: documents, in a file or in the files of a folder, and the judged queries of a folder.

`folders.py` says which file is what, `records.py` which shapes a file may have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.retrieval.folders import document_files, judgement_file, query_file
from rankfleet.retrieval.judgements import read_judgements, read_query_texts
from rankfleet.retrieval.records import Kind, checked_id, read_records

DOCUMENTS = Kind(
    'a document needs "_id" (or "id") and "text", both strings, in JSON lines or Parquet; or the columns id and text '
    "with a tab between them, other columns (title) under a line of column names",
    [
        {
            "id": ("_id", "id", "doc_id", "docid", "docno"),
            "text": ("text", "contents", "body"),
            "title": ("title",),
            "address": ("ms-marco-url",),
        },
        {"id": ("pid",), "text": ("passage",)},  # MS MARCO v2, where docid is the document that a passage is of
    ],
    optional=frozenset({"title", "address"}),
    columns={2: ("id", "text"), 4: ("docid", "ms-marco-url", "title", "body")},
)


@dataclass(frozen=True)
class Document:
    """One document. text: title and body, as indexed and ranked; title: what text begins with, where it is known."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Judged:
    """Queries with their relevance judgements: qrels[query id][document id] = grade, above 0 for relevant.

    without_text: how many other queries have a relevant document and no text.
    """

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    without_text: int = 0


def read_documents(source: Path) -> Iterator[Document]:
    """The documents of a folder, or of one file. Raises InvalidRequest that names file and line."""
    seen: set[str] = set()
    for file in document_files(source):
        for number, record in read_records(file, DOCUMENTS):
            name, text, title = checked_id(record["id"]), record["text"], record.get("title") or ""
            if name is None or not isinstance(text, str) or not isinstance(title, str):
                raise InvalidRequest(f"{file}:{number}: {DOCUMENTS.needs}")
            address = record.get("address")
            if address is not None and "://" not in address:
                raise InvalidRequest(
                    f"{file}:{number}: which of four columns is the title, and which the text? Only MS MARCO's (docid, "
                    "url, title, body) are known without a line of column names"
                )
            if name in seen:
                raise InvalidRequest(f"{file}:{number}: a second document has the id {quote(name)}")
            seen.add(name)
            yield Document(name, f"{title} {text}".strip(), title.strip())
    if not seen:
        raise InvalidRequest(f"{source} holds no documents; {DOCUMENTS.needs}")


def judged_files(folder: Path, split: str | None = None) -> tuple[Path, Path]:
    """(queries, judgements) that `read_judged` reads. Raises InvalidRequest where it is not clear which they are."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder with documents, queries and judgements")
    judgements = judgement_file(folder, split)
    return query_file(folder, judgements), judgements


def read_judged(folder: Path, split: str | None = None) -> Judged:
    """The queries of a folder that have a text and at least one relevant document.

    split: of the judgements; None stands for `test`, or for the only one there is. Raises InvalidRequest that names
    file and line.
    """
    queries, judgements = judged_files(folder, split)
    texts = read_query_texts(queries)
    relevant = {q: grades for q, grades in read_judgements(judgements).items() if max(grades.values()) > 0}
    judged = {q: grades for q, grades in relevant.items() if q in texts}
    if not judged:
        why = f"none of the queries judged there has a text in {queries}" if relevant else "no grade there is above 0"
        raise InvalidRequest(f"{judgements}: no query of {folder} has a relevant document: {why}")
    return Judged({q: texts[q] for q in judged}, judged, len(relevant) - len(judged))
