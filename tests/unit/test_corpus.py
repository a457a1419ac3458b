"""Data files with unusual bytes."""

from pathlib import Path

import pytest

from rankfleet.core.errors import InvalidRequest
from rankfleet.retrieval.corpus import Document, read_documents, read_judged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "x"}\n')
    return tmp_path


def test_ids_may_hold_quotation_marks(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text('query-id\tcorpus-id\tscore\na\t"Heroes" (album)\t1\na\t"open\t2\na\tz\t0\n')
    assert read_judged(folder).qrels == {"a": {'"Heroes" (album)': 1, '"open': 2, "z": 0}}


def test_judgements_that_are_not_text_are_refused(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_bytes(b"a\t\xff\t1\n")
    with pytest.raises(InvalidRequest, match=r"test\.tsv is not UTF-8"):
        read_judged(folder)
    (folder / "qrels/test.tsv").unlink()
    with pytest.raises(InvalidRequest, match="judgements belong there"):
        read_judged(folder)


def test_a_lone_surrogate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text('{"id": "1", "text": "fine \\ud83d\\ude00"}\n{"id": "2", "text": "half \\ud83d"}\n')
    documents = read_documents(file)
    assert next(documents) == Document("1", "fine 😀")
    with pytest.raises(InvalidRequest, match=r"docs\.jsonl:2: not JSON"):
        next(documents)
