"""Queries and documents without judgements, as people have them: a text file of queries, and a folder of texts."""

from pathlib import Path

from rankfleet.core.errors import InvalidRequest
from rankfleet.retrieval.corpus import Document, read_documents
from rankfleet.retrieval.judgements import read_query_texts

TEXTS = (".txt", ".md")


def read_queries(file: Path) -> dict[str, str]:
    """By id: each line of a text file, numbered from 1, or the queries of a file as in BEIR (JSON lines, TSV).

    Raises InvalidRequest if there is none, or the file cannot be read.
    """
    if file.suffix not in TEXTS:
        return read_query_texts(file)
    queries = {str(number): line.strip() for number, line in enumerate(text_of(file).split("\n"), 1) if line.strip()}
    if not queries:
        raise InvalidRequest(f"{file} holds no query; write one on each line")
    return queries


def read_loose_documents(source: Path, queries: Path) -> list[Document]:
    """Each text file of a folder and its folders as one document with its path as id; or, where there is none, the
    documents that `read_documents` reads. queries: a file that is no document.

    Raises InvalidRequest where there are none.
    """
    found = source.rglob("*") if source.is_dir() else ()
    files = sorted(
        file for file in found if file.suffix in TEXTS and file.is_file() and file.resolve() != queries.resolve()
    )
    if not files:
        return [*read_documents(source)]
    read = [Document(str(file.relative_to(source)), text_of(file).strip()) for file in files]
    return [document for document in read if document.text]


def text_of(file: Path) -> str:
    """Raises InvalidRequest for a file that is missing or not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8") from error
