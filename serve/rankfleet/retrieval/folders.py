"""Which file of a folder is what: documents, queries and judgements, by their names.

corpus.jsonl      queries.jsonl           qrels/test.tsv             BEIR
collection.tsv    queries.dev.small.tsv   qrels.dev.small.tsv        MS MARCO
docs.jsonl.gz     topics.tsv              qrels.robust04             as people name them
corpus/*.parquet  queries/*.parquet       qrels/*.parquet            data sets of the Hugging Face hub
"""

import re
from collections.abc import Sequence
from pathlib import Path

from rankfleet.core.errors import InvalidRequest

DOCUMENTS, QUERIES, JUDGEMENTS, RUNS = (
    re.compile(rf"(?<![a-z])(?:{words})(?![a-z])")
    for words in ("corpus|collection", "query|queries|topics?", "qrels?|judge?ments?", "runs?")
)
DATA = re.compile(r"\.(?:jsonl|ndjson|json|tsv|csv|txt|parquet)(?:\.gz)?$")
TEXTS = re.compile(r"\.(?:jsonl|ndjson|tsv|parquet)(?:\.gz)?$")  # of documents with any name
SHARD = re.compile(r"-\d{5}-of-\d{5}")


def document_files(source: Path) -> list[Path]:
    """The files of documents in a folder, or the one file. Raises InvalidRequest where there are none."""
    if not source.is_dir():
        files = [source] if source.exists() else []
    elif files := [path for path in files_of(source, DOCUMENTS) if not rest_of(path, DOCUMENTS)]:
        if len({SHARD.sub("", path.name) for path in files if path.parent == source}) > 1:
            raise InvalidRequest(f"which documents of {source}, {listed(source, files)}? Leave only one of these files")
    else:
        known = (*files_of(source, QUERIES), *files_of(source, JUDGEMENTS), *files_of(source, RUNS))
        files = sorted(path for path in source.iterdir() if TEXTS.search(path.name.lower()) and path not in known)
    if not files:
        raise InvalidRequest(
            f"{source} is neither a JSONL file nor a folder with corpus.jsonl or other *.jsonl, *.tsv or *.parquet "
            "files"
        )
    return files


def judgement_file(folder: Path, split: str | None) -> Path:
    """The judgements of this split; None stands for `test`, or for the only file there is.

    Raises InvalidRequest where there is none, or more than one could be meant.
    """
    files = files_of(folder, JUDGEMENTS)
    wanted = (split or "test").lower()
    found = [path for path in files if rest_of(path, JUDGEMENTS) == wanted]
    if split is None and not found:
        found = files
    if len(found) > 1:
        raise InvalidRequest(
            f"which judgements of {folder}, {listed(folder, found)}? Name one of {splits(found)} with --split, or "
            "leave only that file"
        )
    if not found:
        there = f"; there is {listed(folder, files)}" if files else ""
        raise InvalidRequest(
            f"{folder / 'qrels' / wanted}.tsv: no such file; judgements belong there (BEIR layout){there}"
        )
    return found[0]


def query_file(folder: Path, judgements: Path) -> Path:
    """The texts of the queries: the only such file, or the one of the same split as the judgements. Raises
    InvalidRequest as `judgement_file`."""
    files, split = files_of(folder, QUERIES), rest_of(judgements, JUDGEMENTS)
    found = files if len(files) == 1 else [path for path in files if rest_of(path, QUERIES) == split]
    if len(found) == 1:
        return found[0]
    if files:
        raise InvalidRequest(
            f"which queries of {folder}, {listed(folder, files)}? Leave only one, or one called queries.{split}.tsv"
        )
    raise InvalidRequest(f"{folder / 'queries.jsonl'}: no such file; queries belong there (BEIR layout)")


def files_of(folder: Path, words: re.Pattern[str]) -> list[Path]:
    """The files of a folder that have one of these words in their names, or stand in a folder of that name.

    Where none has a name that ends as those of data do, files count that begin with the word: qrels.robust04.
    """
    own = [path for path in folder.glob("*") if words.search(path.name.lower())]
    inner = [path for path in folder.glob("*/*") if words.fullmatch(path.parent.name.lower())]
    files = sorted(path for path in (*own, *inner) if path.is_file())
    return [p for p in files if DATA.search(p.name.lower())] or [p for p in files if words.match(p.name.lower())]


def rest_of(path: Path, words: re.Pattern[str]) -> str:
    """A name without ending, number of a shard and these words: test of qrels/test.tsv and of qrels.test.tsv.gz,
    dev.small of qrels.dev.small.tsv, nothing of qrels.txt and, in a folder of documents, of any name."""
    if words is DOCUMENTS and words.fullmatch(path.parent.name.lower()):
        return ""
    return words.sub("", SHARD.sub("", DATA.sub("", path.name.lower().removesuffix(".gz"))), count=1).strip("._-")


def listed(folder: Path, files: Sequence[Path]) -> str:
    return ", ".join(str(path.relative_to(folder)) for path in files)


def splits(files: Sequence[Path]) -> str:
    return ", ".join(sorted({rest_of(path, JUDGEMENTS) for path in files} - {""}))
