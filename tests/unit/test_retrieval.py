"""Reading corpora and judgements, and indexes on disk."""

from pathlib import Path

import pytest

from rankfleet.core.errors import ConfigError, InvalidRequest
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.retrieval.corpus import Document, read_documents, read_judged

CORPUS = [Document("1", "Wings heat up"), Document("2", "Boundary layers of a wing"), Document("3", "Naïve café 世界")]


def test_an_index_survives_the_disk(tmp_path: Path) -> None:
    built = Bm25Index.build(CORPUS)
    built.save(tmp_path / "index")
    loaded = Bm25Index.load(tmp_path / "index")
    assert len(loaded) == 3
    for query in ("wing", "café", "heated boundary layer"):
        assert loaded.search(query, 3) == built.search(query, 3)
    assert [hit.id for hit in loaded.search("wing", 3)] == ["1", "2"]
    assert loaded.search("CAFÉ", 3)[0].text == "Naïve café 世界"


def test_a_search_finds_only_documents_that_share_a_word() -> None:
    index = Bm25Index.build(CORPUS)
    assert len(index.search("wing", 1000)) == 2
    assert index.search("", 10) == index.search("zebra", 10) == []


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rankfleet index build"):
        Bm25Index.load(tmp_path)
    with pytest.raises(InvalidRequest, match="no document"):
        Bm25Index.build([])


def test_a_document_of_a_beir_folder_is_its_title_and_text(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "1", "title": "Wings", "text": "get hot"}\n\n{"_id": 2, "text": "b"}\n'
    )
    assert list(read_documents(tmp_path)) == [Document("1", "Wings get hot", "Wings"), Document("2", "b")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "corpus.jsonl:2: not JSON"),
        ("[]", "corpus.jsonl:2: expected a JSON object"),
        ('{"text": "a"}', 'corpus.jsonl:2: a document needs "_id"'),
        ('{"_id": "9", "text": 5}', 'corpus.jsonl:2: a document needs "_id"'),
        ('{"_id": "1", "text": "again"}', "corpus.jsonl:2: a second document has the id '1'"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "a"}\n' + line + "\n")
    with pytest.raises(InvalidRequest) as fault:
        list(read_documents(tmp_path))
    assert message in str(fault.value)


def test_only_queries_with_a_relevant_document_are_judged(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "b", "text": "y"}\n')
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\na\td1\t2\na\td2\t0\nb\td1\t0\nzz\td1\t1\n")
    judged = read_judged(tmp_path)
    assert judged.queries == {"a": "x"}
    assert judged.qrels == {"a": {"d1": 2, "d2": 0}}
    (tmp_path / "qrels/test.tsv").write_text("a\td1\thigh\n")
    with pytest.raises(InvalidRequest, match=r"test\.tsv:1: the grade 'high'"):
        read_judged(tmp_path)
