"""A BM25 index in use: stable order, several threads, rebuilding while it is read."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rankfleet.core.errors import ConfigError, InvalidRequest
from rankfleet.retrieval.bm25 import MANIFEST, Bm25Index
from rankfleet.retrieval.corpus import Document


def test_equal_scores_keep_corpus_order_wherever_the_cut_falls() -> None:
    index = Bm25Index.build([Document(str(i), "cat dog" if i % 3 else "cat cat dog") for i in range(60)])
    # "cat" twice in three words beats once in two; within each kind the earlier document comes first.
    order = [str(i) for i in (*range(0, 60, 3), *(i for i in range(60) if i % 3))]
    for k in (1, 7, 19, 20, 21, 45, 60):
        assert [hit.id for hit in index.search("cat", k)] == order[:k]


def test_a_word_that_a_query_repeats_counts_as_often_and_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Bm25Index.build([Document("1", "cat bird"), Document("2", "dog bird"), Document("3", "fish")])
    once = {hit.id: hit.score for hit in index.search("cat bird dog", 9)}
    words = list[str]()
    get_scores = index._bm25.get_scores
    monkeypatch.setattr(index._bm25, "get_scores", lambda each: words.extend(each) or get_scores(each))
    hits = index.search("cat bird cat dog cat", 9)
    alone = {hit.id: hit.score for hit in index.search("cat", 9)}
    assert [(hit.id, hit.score) for hit in hits] == [
        ("1", pytest.approx(once["1"] + 2 * alone["1"])),
        ("2", pytest.approx(once["2"])),
    ]
    assert sorted(words) == ["bird", "cat", "cat", "dog"], "the last cat is of the second search"


@pytest.mark.parametrize("text", ["", "!", "the and of"])
def test_documents_without_a_word_to_search_by(text: str) -> None:
    with pytest.raises(InvalidRequest, match="none of the 2 documents has a word"):
        Bm25Index.build([Document("1", text), Document("2", text)])
    assert [hit.id for hit in Bm25Index.build([Document("1", text), Document("2", "cat")]).search("cat", 9)] == ["2"]


def test_an_open_index_stays_readable_while_it_is_built_anew(tmp_path: Path) -> None:
    Bm25Index.build([Document(str(i), f"cat number{i} {'filler ' * 50}") for i in range(300)]).save(tmp_path)
    opened = Bm25Index.load(tmp_path)
    Bm25Index.build([Document("new", "cat")]).save(tmp_path)
    assert [hit.id for hit in opened.search("number299", 3)] == ["299"]
    assert [hit.id for hit in Bm25Index.load(tmp_path).search("cat", 3)] == ["new"]


def test_half_an_index_is_refused(tmp_path: Path) -> None:
    Bm25Index.build([Document("1", "cat")]).save(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ConfigError, match="is not an index"):
        Bm25Index.load(tmp_path)


def test_several_threads_search_at_once() -> None:
    words = ["running", "walked", "relational", "computers", "heated", "nations"]
    index = Bm25Index.build([Document(str(i), f"{words[i % 6]} {words[i // 6]}") for i in range(36)])
    queries = [f"{a} {b}" for a in words for b in words]
    alone = [index.search(query, 5) for query in queries]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda query: index.search(query, 5), queries)) == alone
