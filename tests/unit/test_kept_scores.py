"""Scores on disk: a run goes on from them, and those of other models or texts are refused."""

from pathlib import Path

import numpy as np
import pytest

from rankfleet.clients.parts import Scored
from rankfleet.core.errors import ConfigError
from rankfleet.evaluate.kept_scores import KeptScores, Question
from rankfleet.retrieval.bm25 import Hit

ONE = Question("shop", "q1", "shoes", [Hit("a", "red shoes", 2.0), Hit("b", "hats", 1.0)])
TWO = Question("shop", "q2", "hats", [Hit("b", "hats", 1.0)])
NOTHING = Question("shop", "q3", "zebra", [])
IDENTITIES = {"small": "weights 1f, int8", "large": "weights 2e, int8"}


def filled(path: Path) -> KeptScores:
    kept = KeptScores(path)
    kept.check(IDENTITIES, [ONE, TWO])
    kept.add("small", ONE, Scored(np.array([1.5, -0.1]), 0.5))
    kept.add("small", TWO, Scored(np.array([np.float32(0.1)], np.float64), 0.25, searches=2, tokens=7, timed=False))
    kept.add("large", ONE, Scored(np.array([2.5, 0.2]), 0.75))
    return kept


def test_what_was_kept_is_found_again_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.jsonl"
    filled(path)
    kept = KeptScores(path)
    kept.check(IDENTITIES, [ONE, TWO])
    found = kept.get("small", TWO)
    assert found.scores.tolist() == [float(np.float32(0.1))]
    assert (found.seconds, found.searches, found.tokens, found.timed) == (0.25, 2, 7, False)
    assert kept.get("small", ONE).timed
    assert kept.timed("small") == {"shop": 1}
    asked = [("small", TWO), ("large", ONE), ("large", TWO), ("huge", ONE)]
    assert [kept.lacks(*each) for each in asked] == [False, False, True, True]
    assert not kept.lacks("large", NOTHING), "without candidates there is nothing to score"


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_half_line_of_a_killed_run_is_scored_again(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = KeptScores(path)
    kept.check(IDENTITIES, [ONE, TWO])
    assert kept.lacks("large", ONE)
    kept.add("large", ONE, Scored(np.array([2.5, 0.2]), 0.75))
    assert path.read_bytes().endswith(whole.splitlines(keepends=True)[-1])
    assert not KeptScores(path).lacks("large", ONE)


def other(question: Question, **changes: object) -> Question:
    return Question(**{**{name: getattr(question, name) for name in ("data", "query", "text", "hits")}, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("identities", "questions", "message"),
    [
        (IDENTITIES | {"small": "weights 1f, float32"}, [ONE], "of another small (weights 1f, int8; now weights 1f, f"),
        (IDENTITIES, [other(ONE, text="boots")], "scores of the query q1 of shop with another text or"),
        (IDENTITIES, [other(ONE, hits=ONE.hits[::-1])], "with another text or other candidates"),
        (IDENTITIES, [other(ONE, hits=[Hit("a", "RED", 2.0), ONE.hits[1]])], "delete it to score everything anew"),
    ],
)
def test_other_models_precisions_texts_and_candidates_are_refused(
    identities: dict[str, str], questions: list[Question], message: str, tmp_path: Path
) -> None:
    filled(tmp_path / "scores.jsonl")
    with pytest.raises(ConfigError) as raised:
        KeptScores(tmp_path / "scores.jsonl").check(identities, questions)
    assert message in str(raised.value)


def test_more_queries_and_models_may_come(tmp_path: Path) -> None:
    filled(tmp_path / "scores.jsonl")
    more = Question("shop", "q9", "coats", [Hit("c", "coats", 1.0)])
    KeptScores(tmp_path / "scores.jsonl").check(IDENTITIES | {"rerank-v3.5": "cohere"}, [ONE, TWO, more])


@pytest.mark.parametrize("text", ["hello\n", '{"model": "small"}\n', "[1]\n"])
def test_a_file_that_holds_no_scores_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(ConfigError, match="does not hold scores"):
        KeptScores(tmp_path / "scores.jsonl")


def test_without_a_file_scores_are_kept_in_memory() -> None:
    kept = KeptScores()
    kept.add("small", TWO, Scored(np.array([1.0]), 0.5))
    assert kept.get("small", TWO).scores.tolist() == [1.0]
