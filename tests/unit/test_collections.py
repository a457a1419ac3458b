"""Judged collections from files on disk to candidates, and their nDCG@10 beside trec_eval's."""

from pathlib import Path

import pytest
import pytrec_eval

from rankfleet.core.errors import InvalidRequest
from rankfleet.evaluate import Collection, evaluate_retriever
from rankfleet.evaluate.measures import Gains, ndcg_by_query, ranked_run

CORPUS = "d1\tcats purr loudly\nd2\tdogs bark\nd3\tcats sleep\n"


def write(folder: Path, corpus: str = CORPUS, queries: str = "q1\tcats purr\n", qrels: str = "q1 0 d1 1\n") -> Path:
    for name, text in (("corpus.tsv", corpus), ("queries.tsv", queries), ("qrels.txt", qrels)):
        (folder / name).write_text(text)
    return folder


def found(collection: Collection) -> dict[str, list[str]]:
    return {query: [hit.id for hit in hits] for query, hits in collection.candidates.items()}


def test_the_querys_own_document_is_left_out(tmp_path: Path) -> None:
    whole = CORPUS + "q1\t Cats  purr \n"  # as ArguAna and Quora have it, in other white space
    collection = Collection.read(write(tmp_path, whole), 10)
    assert found(collection) == {"q1": ["d1", "d3"]}
    assert evaluate_retriever(collection.judged, collection.candidates)["ndcg@10"] == 1.0  # 0.6309 behind the query
    assert collection.notes == ["queries whose own document is in the corpus, left out of their candidates: 1"]
    assert found(Collection.read(tmp_path, 1)) == {"q1": ["d1"]}, "another takes its place"


def test_the_querys_own_document_may_have_a_title(tmp_path: Path) -> None:
    body, title = (
        "id\ttitle\ttext\nq1\tpets\tcats purr\nd1\t\tcats\n",
        "id\ttitle\ttext\nq1\tcats purr\tIt is so.\nd1\t\tcats\n",
    )
    assert found(Collection.read(write(tmp_path, body), 10)) == {"q1": ["d1"]}
    assert found(Collection.read(write(tmp_path, title), 10)) == {"q1": ["d1"]}


def test_a_document_that_has_a_querys_id_by_chance_is_kept(tmp_path: Path) -> None:
    numbers = {"corpus": CORPUS.replace("d", "", 1).replace("\nd", "\n"), "queries": "3\tcats\n"}
    collection = Collection.read(write(tmp_path, **numbers, qrels="3 0 1 1\n"), 10)
    assert found(collection) == {"3": ["3", "1"]}
    assert collection.notes == []


def test_a_document_that_has_a_querys_id_and_is_the_answer_is_kept(tmp_path: Path) -> None:
    collection = Collection.read(write(tmp_path, queries="d1\tcats purr\n", qrels="d1 0 d1 1\n"), 10)
    assert found(collection) == {"d1": ["d1", "d3"]}


def test_judged_documents_that_are_missing_count_in_the_ideal_as_in_trec_eval(tmp_path: Path) -> None:
    qrels = "q1 0 gone 3\nq1 0 d3 1\nq1 0 d1 2\nq1 0 lost -1\nq2 0 d2 1\nq2 0 d2 1.0\nq3 0 d1 1\n"
    queries = "q1\tcats purr\nq2\tdogs\nq3\tzebra\n"
    collection = Collection.read(write(tmp_path, queries=queries, qrels=qrels), 10)
    assert collection.notes == [
        "relevant judgements of documents that are not in the corpus, counted in the ideal ranking: 1 of 5",
        "queries without candidates, counted as 0: 1",
    ]
    run = ranked_run(found(collection))
    assert run == {"q1": {"d1": 2.0, "d3": 1.0}, "q2": {"d2": 1.0}, "q3": {}}
    # (2 + 1/log2(3)) ÷ (3 + 2/log2(3) + 1/log2(4)); found alone; not found
    expected = [0.55250, 1.0, 0.0]
    assert ndcg_by_query(run, collection.judged.qrels) == pytest.approx(expected, abs=1e-5)
    by_hand = {"q1": {"gone": 3, "d3": 1, "d1": 2, "lost": -1}, "q2": {"d2": 1}, "q3": {"d1": 1}}
    theirs = pytrec_eval.RelevanceEvaluator(by_hand, {"ndcg_cut.10"}).evaluate(run)
    assert [theirs[query]["ndcg_cut_10"] for query in ("q1", "q2")] == pytest.approx(expected[:2], abs=1e-5)
    assert Gains.of(collection.judged, collection.candidates).shares[0] @ [1, 0.63093] == pytest.approx(
        0.55250, abs=1e-5
    )


def test_judged_queries_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    collection = Collection.read(write(tmp_path, qrels="q1 0 d1 1\nq8 0 d1 1\nq9 0 d1 1\nq7 0 d1 0\n"), 10)
    assert list(collection.judged.queries) == ["q1"]
    assert collection.notes == ["judged queries without a text, left out: 2"]


def test_judgements_of_another_corpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="none of 2 relevant documents is in the corpus: 'doc-1' is judged, "
                       "and 'd1' is the first document"):  # fmt: skip
        Collection.read(write(tmp_path, qrels="q1 0 doc-1 1\nq1 0 doc-2 1\nq1 0 d1 0\n"), 10)


def test_candidates_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "bm25.run"
    run.write_text("q1 Q0 q1 1 9 x\nq1 Q0 d2 2 8.5 x\nq1 Q0 d1 3 8 x\nq1 Q0 d3 4 7 x\nq9 Q0 else 1 1 x\n")
    folder = write(tmp_path, CORPUS + "q1\tcats purr\n", "q1\tcats purr\nq2\tdogs\n", "q1 0 d1 1\nq2 0 d2 1\n")
    collection = Collection.read(folder, 2, run=run)
    assert found(collection) == {"q1": ["d2", "d1"], "q2": []}
    assert [(hit.text, hit.score) for hit in collection.candidates["q1"]] == [
        ("dogs bark", 8.5),
        ("cats purr loudly", 8),
    ]
    assert (collection.retriever, collection.documents) == ("run", 4)
    assert collection.notes == [
        "queries whose own document is in the corpus, left out of their candidates: 1",
        "queries without candidates, counted as 0: 1",
    ]
    run.write_text("q1 gone 1\n")
    with pytest.raises(InvalidRequest, match=r"bm25\.run: the document 'gone' of the query 'q1' is not in the corpus"):
        Collection.read(folder, 2, run=run)
    run.write_text("7 d1 1\n")
    with pytest.raises(InvalidRequest, match=r"bm25\.run: none of the 2 judged queries is there; it begins with '7'"):
        Collection.read(folder, 2, run=run)


def test_a_split_is_chosen_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "qrels.txt").rename(tmp_path / "qrels.dev.txt")
    (tmp_path / "qrels.train.txt").write_text("q1 0 d3 1\n")
    assert Collection.read(tmp_path, 10, split="dev").judged.qrels == {"q1": {"d1": 1}}
    assert Collection.read(tmp_path, 10, split="train").judged.qrels == {"q1": {"d3": 1}}
