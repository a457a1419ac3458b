"""Agreement with a judge where there are no judgements, and its page."""

from math import log2
from pathlib import Path

import numpy as np
import pytest

from rankfleet.core.errors import InvalidRequest
from rankfleet.evaluate.agreement import agreement, agreements, means, most_different
from rankfleet.evaluate.agreement_page import page
from rankfleet.retrieval.bm25 import Hit
from rankfleet.retrieval.loose_texts import read_loose_documents, read_queries


def test_the_same_order_and_the_reverse() -> None:
    truth = np.array([2, 0, 1])
    assert agreement(truth, truth) == {"ndcg@10": 1.0, "overlap@10": 1.0, "tau": 1.0}
    found = agreement(truth[::-1], truth)
    assert (found["overlap@10"], found["tau"]) == (1.0, -1.0)
    # Gains 8, 9, 10 in place of 10, 9, 8
    worst, best = (a + 9 / log2(3) + b / 2 for a, b in ((8, 10), (10, 8)))
    assert found["ndcg@10"] == pytest.approx(worst / best)


def test_one_pair_the_other_way_round_and_a_stranger_among_the_first_ten() -> None:
    truth = np.arange(12)
    order = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 9, 11])
    found = agreement(order, truth)
    assert found["overlap@10"] == 0.9
    assert found["tau"] == pytest.approx(1 - 2 / 66)
    gains = [10 - i for i in range(10)]
    ideal = sum(gain / log2(i + 2) for i, gain in enumerate(gains))
    assert found["ndcg@10"] == pytest.approx((ideal - 1 / log2(11)) / ideal)
    assert agreement(np.array([0]), np.array([0]))["tau"] == 1.0


def test_means_and_the_queries_that_differ_most() -> None:
    same, turned = np.array([0, 1]), np.array([1, 0])
    orders = {"small": {"1": same, "2": turned, "3": same}, "large": {"1": same, "2": same, "3": same}}
    found = agreements(orders, "large")
    assert list(found) == ["small"]
    assert means(found)["small"]["tau"] == round(1 / 3, 4)
    assert most_different(found, ["small"], 2) == ["2", "1"]


def test_the_page_runs_nothing_of_a_document() -> None:
    evil = "<script>alert(1)</script>"
    candidates = {"1": [Hit(evil, evil, 2.0), Hit("b", "x" * 400, 1.0)]}
    orders = {"<b>": {"1": np.array([1, 0])}, "large": {"1": np.array([0, 1])}}
    found = agreements(orders, "large")
    html = page(means(found), {"1": f"q {evil}"}, ["1"], candidates, orders, "large")
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5  # the query once, id and text in two columns
    assert "default-src 'none'" in html
    assert f"{'x' * 300}…" in html
    assert "<b>1</b> <small>&lt;script&gt;" in html  # the judge's first


def test_queries_are_lines_and_documents_are_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "queries.txt").write_bytes("\ufeffwhat do cats do\r\n\r\nwhat do dogs do\r\n".encode())
    (tmp_path / "a.txt").write_text("cats purr\n")
    (tmp_path / "deep/b.md").write_text("dogs bark")
    (tmp_path / "empty.txt").write_text("\n")
    queries = tmp_path / "queries.txt"
    assert read_queries(queries) == {"1": "what do cats do", "3": "what do dogs do"}
    assert [(each.id, each.text) for each in read_loose_documents(tmp_path, queries)] == [
        ("a.txt", "cats purr"),
        ("deep/b.md", "dogs bark"),
    ]


def test_documents_may_be_json_lines(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text('{"_id": "d1", "text": "cats purr"}\n')
    queries = tmp_path / "queries.txt"
    with pytest.raises(InvalidRequest, match=r"queries\.txt: No such file"):
        read_queries(queries)
    queries.write_text("\n")
    with pytest.raises(InvalidRequest, match="one on each line"):
        read_queries(queries)
    assert [each.id for each in read_loose_documents(tmp_path, queries)] == ["d1"]
