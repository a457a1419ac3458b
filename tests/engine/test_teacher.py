import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rankfleet.core.errors import InvalidRequest
from rankfleet.distill.teacher import count_pairs, score_pairs


class FakeTeacher:
    """Scores by length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.asked.append((query, len(documents)))
        return np.array([float(len(d)) for d in documents])


def write_pairs(path: Path) -> Path:
    pairs = [{"query": q, "document": d} for q in ("one", "two") for d in ("a", "bb", "ccc")]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def test_pairs_of_one_query_are_scored_together(tmp_path: Path) -> None:
    teacher, seen = FakeTeacher(), []
    score_pairs(teacher, write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "out.jsonl", seen.append)  # type: ignore[arg-type]
    assert teacher.asked == [("one", 3), ("two", 3)]
    assert seen == [0, 3, 6]
    scores = [json.loads(line)["score"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert scores == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("left", [0, 1, 60, 130])
def test_scored_pairs_are_not_scored_again_and_half_a_line_is_dropped(left: int, tmp_path: Path) -> None:
    pairs, whole, cut = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    score_pairs(FakeTeacher(), pairs, whole, lambda _: None)  # type: ignore[arg-type]
    cut.write_bytes(whole.read_bytes()[:left])
    teacher = FakeTeacher()
    score_pairs(teacher, pairs, cut, lambda _: None)  # type: ignore[arg-type]
    assert cut.read_text() == whole.read_text()
    assert sum(count for _, count in teacher.asked) == 6 - whole.read_bytes()[:left].count(b"\n")


@pytest.mark.parametrize("line", ["", "[]", "{", '{"query": "a"}', '{"query": 1, "document": "b"}'])
def test_a_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "document": "b"}\n' + line + "\n")
    with pytest.raises(InvalidRequest, match=r"pairs\.jsonl:2: needs JSON with query, document"):
        count_pairs(path, scored=False)
