"""Corpora on disk: BEIR folders (corpus.jsonl, queries.jsonl, qrels/test.tsv), or JSONL files of documents.

JSONL may be compressed by gzip, and may begin with a byte-order mark; blank lines are skipped.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from rankfleet.core.errors import InvalidRequest


@dataclass(frozen=True)
class Document:
    """One document. text: title and body, as indexed and ranked; title: what text begins with, where it is known."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Judged:
    """Queries with their relevance judgements: qrels[query id][document id] = grade, above 0 for relevant."""

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_documents(source: Path) -> Iterator[Document]:
    """The documents of a BEIR folder, of every *.jsonl file in a folder, or of one file.

    A line is {"_id" or "id", "text", "title"?}. Raises InvalidRequest that names file and line.
    """
    seen: set[str] = set()
    for file in document_files(source):
        for number, record in read_jsonl(file):
            name = record.get("_id", record.get("id"))
            text, title = record.get("text"), record.get("title") or ""
            if not isinstance(name, str | int) or not isinstance(text, str) or not isinstance(title, str):
                raise InvalidRequest(f'{file}:{number}: a document needs "_id" (or "id") and "text", both strings')
            if str(name) in seen:
                raise InvalidRequest(f"{file}:{number}: a second document has the id {name!r}")
            seen.add(str(name))
            yield Document(str(name), f"{title} {text}".strip(), title.strip())


def document_files(source: Path) -> list[Path]:
    """The files that `read_documents` reads. Raises InvalidRequest where there are none."""
    files = [source]
    if source.is_dir():
        files = [source / "corpus.jsonl"] if (source / "corpus.jsonl").exists() else sorted(source.glob("*.jsonl"))
    if not files or not files[0].exists():
        raise InvalidRequest(f"{source} is neither a JSONL file nor a folder with corpus.jsonl or other *.jsonl files")
    return files


def read_judged(folder: Path, split: str = "test") -> Judged:
    """The queries of a BEIR folder that have at least one relevant document in qrels/SPLIT.tsv. Raises
    InvalidRequest."""
    texts = {}
    for number, record in read_jsonl(folder / "queries.jsonl"):
        name, text = record.get("_id", record.get("id")), record.get("text")
        if not isinstance(name, str | int) or not isinstance(text, str):
            raise InvalidRequest(f'{folder / "queries.jsonl"}:{number}: a query needs "_id" and "text"')
        texts[str(name)] = text
    qrels: dict[str, dict[str, int]] = {}
    path = folder / "qrels" / f"{split}.tsv"
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                if number == 1 and row[:1] == ["query-id"]:
                    continue
                try:
                    query, document, grade = row[0], row[1], int(row[2])
                except (IndexError, ValueError):
                    message = f"{path}:{number}: expected query id, document id and a whole number, tab-separated"
                    raise InvalidRequest(message) from None
                qrels.setdefault(query, {})[document] = grade
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}; judgements belong there (BEIR layout)") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: {error}") from error
    judged = {q: grades for q, grades in qrels.items() if q in texts and max(grades.values()) > 0}
    if not judged:
        raise InvalidRequest(f"no query of {folder} has a relevant document")
    return Judged({q: texts[q] for q in judged}, judged)


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank. Raises InvalidRequest that names file and line."""
    try:
        with open_text(file) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    record = orjson.loads(line)  # refuses lone surrogates, which cannot be written back as UTF-8
                except ValueError as error:
                    why = "NaN and Infinity are not JSON" if "NaN" in line or "Infinity" in line else str(error)
                    raise InvalidRequest(f"{file}:{number}: not JSON ({why})") from error
                if not isinstance(record, dict):
                    raise InvalidRequest(f"{file}:{number}: expected a JSON object")
                yield number, record
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: gzip that is cut off or damaged
        raise InvalidRequest(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def open_text(file: Path) -> IO[str]:
    """A file of UTF-8 text, decompressed if its first bytes are those of gzip."""
    with file.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    return gzip.open(file, "rt", encoding="utf-8-sig") if compressed else file.open(encoding="utf-8-sig")
