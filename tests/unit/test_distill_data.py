"""Training data of `rankfleet distill`: files as people have them, questions, mining, held-back queries."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rankfleet.core.errors import InvalidRequest
from rankfleet.distill.held_back import held_back_keys, merged, ndcg, place, since_best
from rankfleet.distill.mining import candidates, select
from rankfleet.distill.questions import Query, make_questions, query_files, read_queries, sample
from rankfleet.distill.sources import Group, PairFile, check_pairs, read_pairs
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.retrieval.corpus import Document, read_documents

LINE = '{"query": "a", "document": "x", "score": 1}\n'


def test_whole_numbers_then_fractions_with_extra_columns_blank_lines_and_a_mark_in_gzip(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl.gz"
    lines = [LINE, "\n", '{"id": 7, "query": "a", "document": "y", "score": 0.25}\r\n', "   \n"]
    lines += ['{"query": "b", "document": "x", "score": -3}\n', '{"query": "a", "document": "z", "score": 2e0}']
    file.write_bytes(gzip.compress("".join(lines).encode("utf-8-sig")))
    assert check_pairs(file) == PairFile(pairs=4, groups=3, queries=2, scored=True)
    assert list(read_pairs(file)) == [
        Group("a", ("x", "y"), "a", scores=(1.0, 0.25)),
        Group("b", ("x",), "b", scores=(-3.0,)),
        Group("a", ("z",), "a", scores=(2.0,)),
    ]
    assert check_pairs(file, limit=2) == PairFile(pairs=2, groups=1, queries=1, scored=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"pairs\.jsonl holds no pairs"),
        ("\n \n", r"pairs\.jsonl holds no pairs"),
        (LINE + '{"query": "a", "document": "y", "score": NaN}', r"pairs\.jsonl:2: not JSON \(NaN and Infinity"),
        (
            LINE + '{"query": "a", "document": "y", "score": "0.5"}',
            r"""pairs\.jsonl:2: "score" is '0\.5', not a number""",
        ),
        (LINE + '{"query": "a", "document": "y", "score": true}', r"pairs\.jsonl:2: \"score\" is 'True', not a number"),
        (LINE + '{"query": "a", "document": "y", "score": 1e999}', r"pairs\.jsonl:2: "),
        (LINE + '\n{"query": "a", "document": "y"}', r"pairs\.jsonl:3: has no score, unlike the lines before it"),
        ('{"query": "a", "document": "y", "score": null}\n' + LINE, r"pairs\.jsonl:2: has a score, unlike"),
        (LINE + LINE.replace("x", "y"), r"pairs\.jsonl: all 2 scores are 1; there is nothing to learn"),
        (
            LINE + '{"q": "a", "passage": "y"}',
            r"""pairs\.jsonl:2: needs .* 'query' and 'document' are not there \(it has 'q', 'passage'\)""",
        ),
        (LINE + '{"query": " ", "document": "y", "score": 2}', r"pairs\.jsonl:2: the query is empty"),
        (LINE + "[]", r"pairs\.jsonl:2: expected a JSON object"),
        (LINE + "{", r"pairs\.jsonl:2: not JSON"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=message):
        check_pairs(file)


def test_pairs_of_a_table_have_numbers_for_scores(tmp_path: Path) -> None:
    expected = [Group("a", ("x", "y"), "a", scores=(1.0, -0.5))]
    file = tmp_path / "pairs.tsv"
    file.write_text("\ufeffa\tx\t1\r\n\r\na\ty\t-0.5\r\n")
    assert list(read_pairs(file)) == expected
    file.write_text("score\tdocument\tid\tquery\n1\tx\t7\ta\n-.5\ty\t8\ta\n")
    assert list(read_pairs(file)) == expected
    file.write_text("query\tdocument\na\tx\na\ty\n")
    assert list(read_pairs(file)) == [Group("a", ("x", "y"), "a")]
    file.write_text("a\tx\ty\n")  # MS MARCO's triples: query, positive, negative
    with pytest.raises(InvalidRequest, match=r"""pairs\.tsv:1: "score" is 'y', not a number"""):
        check_pairs(file)
    file.write_text("a\tx\n")  # or an id and a text
    with pytest.raises(InvalidRequest, match=r"pairs\.tsv:1: 2 columns .* has the columns query, document and score"):
        check_pairs(file)


def test_pairs_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    from pyarrow import parquet

    file = tmp_path / "pairs.parquet"
    rows = [{"query": "a", "document": "x", "score": 1.0}, {"query": "a", "document": "y", "score": -0.5}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert check_pairs(file) == PairFile(pairs=2, groups=1, queries=1, scored=True)
    assert list(read_pairs(file)) == [Group("a", ("x", "y"), "a", scores=(1.0, -0.5))]


@pytest.mark.parametrize("cut", [1, 12, 30])
def test_gzip_that_is_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(gzip.compress((LINE * 50).encode())[:-cut])
    with pytest.raises(InvalidRequest, match=r"pairs\.jsonl: "):
        check_pairs(file)


BODY = "The wing was tested in a tunnel. " + "It held at every speed that was tried there. " * 3


def test_titles_and_first_sentences_become_questions_and_leave_the_document() -> None:
    made = make_questions([Document("1", f"Wings in flow {BODY}", "Wings in flow"), Document("2", "Too short. Also.")])
    rest = "It held at every speed that was tried there. " * 3
    assert made == [
        Query("Wings in flow", {"1": BODY.strip(" .")}, True),
        Query("The wing was tested in a tunnel", {"1": f"Wings in flow  {rest}".strip(" .")}, True),
    ]


def test_a_short_document_stays_whole_and_a_sentence_of_many_documents_asks_for_none() -> None:
    documents = [Document(str(i), f"This page is about us. Number {i} of our many pages.") for i in range(4)]
    assert make_questions(documents) == []
    assert make_questions(documents[:2]) == [Query("This page is about us", {"0": None, "1": None}, True)]


def test_a_long_sentence_is_cut_to_32_words() -> None:
    (made,) = make_questions([Document("1", " ".join(f"w{i}" for i in range(60)))])
    assert made.text.split() == [f"w{i}" for i in range(32)]
    assert made.positives == {"1": " ".join(f"w{i}" for i in range(32, 60))}


def test_the_same_seed_draws_the_same_queries_in_their_order() -> None:
    queries = [Query(f"q{i}") for i in range(100)]
    drawn = sample(queries, 10, seed=3)
    assert drawn == sample(queries, 10, seed=3) != sample(queries, 10, seed=4)
    assert drawn == sorted(drawn, key=queries.index)
    assert sample(queries, 100, seed=3) == sample(queries, None, seed=3) == queries


def test_queries_of_a_file_with_their_positives(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"_id": 1, "text": "a"}\n{"query": "b", "positives": ["2", 1]}\n{"text": "a", "positives": "2"}\n')
    assert read_queries(file, {"1": "x", "2": "y"}) == [Query("a", {"2": None}), Query("b", {"2": None, "1": None})]
    with pytest.raises(InvalidRequest, match=r"q\.jsonl:2: no document has the id '2'"):
        read_queries(file, {"1": "x"})


@pytest.mark.parametrize("text", ["why, 1\n\nwhat\u2028not\r\n", "7\twhy, 1\n8\twhat\u2028not\n"])
def test_queries_of_a_file_of_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "queries.txt"
    file.write_text(text)
    assert read_queries(file, {}) == [Query("why, 1"), Query("what\u2028not")]


def test_training_queries_in_the_layout_of_ms_marco(tmp_path: Path) -> None:
    (tmp_path / "queries.train.tsv").write_text("7\twhy\n")
    (tmp_path / "queries.dev.tsv").write_text("8\twhat\n")
    (tmp_path / "qrels.train.tsv").write_text("7\t0\t1\t1\n")
    (tmp_path / "qrels.dev.tsv").write_text("8\t0\t1\t1\n")
    assert read_queries(tmp_path, {"1": "x"}) == [Query("why", {"1": None})]
    assert query_files(tmp_path) == [tmp_path / "queries.train.tsv", tmp_path / "qrels.train.tsv"]
    with pytest.raises(InvalidRequest, match=r"qrels\.train\.tsv: no document that it judges relevant is there"):
        read_queries(tmp_path, {"2": "x"})


def test_a_folder_gives_its_training_queries_and_never_those_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "t", "text": "train"}\n{"_id": "u", "text": "test"}\n')
    (tmp_path / "qrels/test.tsv").write_text("u\t1\t1\n")
    with pytest.raises(InvalidRequest, match=r"train\.tsv"):
        read_queries(tmp_path, {"1": "x"})
    (tmp_path / "qrels/train.tsv").write_text("t\t1\t1\nt\t2\t0\nt\tgone\t1\n")
    assert read_queries(tmp_path, {"1": "x", "2": "y"}) == [Query("train", {"1": None})]


def test_candidates_are_the_positives_and_then_the_order_of_bm25() -> None:
    documents = [Document("1", "cat cat"), Document("2", "cat dog bird fish"), Document("3", "fish")]
    texts = {document.id: document.text for document in documents}
    queries = [Query("cat", {"3": None}), Query("dog", {"2": "rest of it"}, made=True), Query("horse")]
    assert list(candidates(Bm25Index.build(documents), queries, texts, 10)) == [
        Group("cat", ("fish", "cat cat", "cat dog bird fish"), "cat", (0,)),
        Group("dog", ("rest of it",), "2", (0,), True),
        None,
    ]


def scored(count: int, positives: tuple[int, ...] = (), made: bool = False) -> Group:
    """Documents d0, d1, … whose scores fall by one."""
    return Group("q", [f"d{i}" for i in range(count)], "q", positives, made, [float(-i) for i in range(count)])


def test_the_hardest_are_kept_and_half_of_a_query_comes_from_a_band_below() -> None:
    kept = select(scored(100, (5,)), margin=0.0, seed=1)
    assert kept is not None
    places = [int(name[1:]) for name in kept.documents]
    assert places[:33] == [5, *range(6, 38)]  # 0 to 4 score above the positive
    assert len(places) == 65
    assert places[33:] == sorted(places[33:])
    assert min(places[33:]) >= 38
    assert kept.scores == [float(-place) for place in places]
    assert kept.positives == (0,)
    assert kept == select(scored(100, (5,)), margin=0.0, seed=1) != select(scored(100, (5,)), margin=0.0, seed=2)


@pytest.mark.parametrize(("margin", "first"), [(0.0, 3), (2.0, 5), (-2.0, 1), (-9.0, 0)])
def test_false_negatives_are_those_above_the_best_positive_minus_the_margin(margin: float, first: int) -> None:
    kept = select(scored(8, (3, 7)), margin, seed=1)
    assert kept is not None
    others = [f"d{i}" for i in range(first, 7) if i != 3]
    assert kept.documents == ["d3", "d7", *others]


def test_a_made_query_that_does_not_lead_back_to_its_document_is_dropped() -> None:
    assert select(scored(20, (10,), made=True), 0.0, seed=1) is None
    assert select(scored(20, (9,), made=True), 0.0, seed=1) is not None
    assert select(scored(20, (10,)), 0.0, seed=1) is not None


def test_a_query_is_held_back_by_a_hash_of_itself_alone() -> None:
    # sha256("a") begins with ca97, that of "b" with 3e23, that of "c" with 2e7d
    assert [round(place(key), 4) for key in "abc"] == [0.7914, 0.2427, 0.1816]
    assert held_back_keys("abc", 0.3) == {"b", "c"}
    assert held_back_keys("bca", 0.2) == {"c"}
    assert held_back_keys("abc", 0.01) == {"c"}  # at least one
    assert held_back_keys("abc", 0) == frozenset()
    assert [len(held_back_keys(map(str, range(n)), 0.05)) for n in (40, 150, 10_000)] == [8, 20, 200]


def test_the_graded_truth_is_the_teachers_score_above_its_lowest() -> None:
    group = Group("q", ["a", "b", "c"], "q", scores=[4.0, 1.0, 2.0])
    assert ndcg([group], [np.array([9.0, 0.0, 5.0])]) == pytest.approx(1.0)
    # gains 3, 0, 1; the order c, a, b has 1 + 3/log2(3), the best 3 + 1/log2(3)
    assert ndcg([group], [np.array([1.0, 0.0, 2.0])]) == pytest.approx(2.892789 / 3.630930, abs=1e-6)


def test_groups_of_one_query_are_ranked_together_and_those_that_have_no_order_not_at_all() -> None:
    one, two = Group("q", ["a"], "q", scores=[1.0]), Group("q", ["b"], "q", scores=[2.0])
    flat = Group("r", ["a", "b"], "r", scores=[1.0, 1.0])
    (whole,) = merged([one, flat, two])
    assert (whole.documents, whole.scores) == (["a", "b"], [1.0, 2.0])


@pytest.mark.parametrize(("values", "count"), [([], 0), ([0.5], 0), ([0.5, 0.5, 0.4], 2), ([0.1, 0.3, 0.2, 0.31], 0)])
def test_measurements_since_the_best(values: list[float], count: int) -> None:
    assert since_best(values) == count


def test_a_corpus_may_be_compressed_too(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps({"_id": 1, "text": "body", "title": " Head "}).encode("utf-8-sig")))
    assert list(read_documents(file)) == [Document("1", "Head  body", "Head")]
