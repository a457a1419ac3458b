"""Scoring queries window after window: their order, how many at a time, when it ends, and in which words."""

from collections.abc import Sequence

import numpy as np
import pytest

from rankfleet.clients.parts import Scored
from rankfleet.core.errors import RankfleetError
from rankfleet.evaluate import Collection
from rankfleet.evaluate.kept_scores import KeptScores
from rankfleet.evaluate.rankers import ServerRanker
from rankfleet.evaluate.sampling import Pace, in_turn, next_look
from rankfleet.evaluate.scoring import questions_of, score_questions, with_scores
from rankfleet.recommend.choice import Goal
from rankfleet.recommend.sample import Sample, tiers_told
from rankfleet.retrieval.bm25 import Hit
from rankfleet.retrieval.corpus import Judged
from tests.unit.fakes import FakeClock


def collection(name: str, queries: int) -> Collection:
    """Queries with two candidates each, but for the second, which has none."""
    names = [f"{name}{i}" for i in range(queries)]
    judged = Judged({each: f"text of {each}" for each in names}, {each: {"a": 1} for each in names})
    hits = [Hit("a", "right", 2.0), Hit("b", "wrong", 1.0)]
    return Collection(name, 2, judged, {each: [] if each.endswith("1") else hits for each in names})


def test_collections_take_turns_until_the_larger_are_left() -> None:
    collections = [questions_of(collection("x", 3)), questions_of(collection("y", 1))]
    assert [each.query for each in in_turn(collections)] == ["x0", "y0", "x1", "x2"]


def test_a_seed_draws_the_same_queries_again() -> None:
    questions = [questions_of(collection("x", 50)), questions_of(collection("y", 50))]
    drawn = in_turn(questions, 1)
    assert drawn == in_turn(questions, 1)
    assert drawn != in_turn(questions, 2)
    assert [each.data for each in drawn[:4]] == ["x", "y", "x", "y"]
    assert {each.query for each in drawn} == {each.query for part in questions for each in part}


@pytest.mark.parametrize(("done", "look"), [(0, 20), (19, 20), (20, 40), (79, 80), (80, 160)])
def test_looks_are_at_20_and_at_twice_as_many_each_time(done: int, look: int) -> None:
    assert next_look(done) == look


@pytest.mark.parametrize(
    ("pace", "done", "taken_s", "now_s", "queries"),
    [
        (Pace(), 0, 0.0, 0.0, 1),
        (Pace(), 1, 0.5, 0.5, 2),  # at most twice what was done
        (Pace(), 100, 50.0, 50.0, 20),  # of half a second each in ten seconds
        (Pace(), 3, 90.0, 90.0, 1),  # half a minute each
        (Pace(until_s=60.0), 100, 50.0, 57.0, 6),  # three seconds are left
        (Pace(until_s=60.0), 3, 50.0, 50.0, 0),  # 17 s each, and ten are left
        (Pace(until_s=60.0), 0, 0.0, 70.0, 1),  # the first in any case
        (Pace(), 1000, 0.0, 0.0, 2000),
    ],
)
def test_how_many_queries_are_scored_next(pace: Pace, done: int, taken_s: float, now_s: float, queries: int) -> None:
    assert pace.next(done, taken_s, now_s) == queries


class FakeServer:
    """Likes the first document, and takes two seconds by the clock."""

    def __init__(self, clock: FakeClock, fails_after: int | None = None) -> None:
        self.clock, self.asked, self.fails_after = clock, list[str](), fails_after

    def timed(self, query: str, documents: Sequence[str]) -> Scored:
        if len(self.asked) == self.fails_after:
            raise RankfleetError("gone")
        self.clock.now += 2.0
        self.asked.append(query)
        return Scored(np.array([1.0, 0.0]), 2.0)


def test_all_rankers_score_a_window_before_the_next_one_begins() -> None:
    clock, log = FakeClock(), list[str]()

    class Logged(FakeServer):
        def timed(self, query: str, documents: Sequence[str]) -> Scored:
            log.append(query.removeprefix("text of "))
            return super().timed(query, documents)

    both = [ServerRanker(name, name, Logged(clock)) for name in ("one", "two")]
    questions, pairs = questions_of(collection("x", 5)), list[int]()
    assert score_questions(both, questions, KeptScores(), Pace(), pairs.append, clock=clock) == (5, "all")
    # One query, then two at a time, of 4 s each; x1 has no candidates.
    assert log == ["x0", "x0", "x2", "x3", "x2", "x3", "x4", "x4"]
    assert pairs == [2] * 8


def test_scoring_ends_at_a_look_that_is_enough_or_when_the_time_is_up() -> None:
    clock = FakeClock()
    questions, asked = questions_of(collection("x", 200)), list[int]()

    def enough(done: int) -> bool:
        asked.append(done)
        return done == 80

    def ranker() -> list[ServerRanker]:
        return [ServerRanker("one", "one", FakeServer(clock))]

    kept = KeptScores()
    assert score_questions(ranker(), questions, kept, Pace(), enough=enough, clock=clock) == (80, "enough")
    assert asked == [20, 40, 80]
    # All that was scored counts at once, and is asked about as before.
    assert score_questions(ranker(), questions, kept, Pace(), enough=enough, clock=clock) == (80, "enough")
    assert asked == [20, 40, 80] * 2
    # 30 s are 15 queries of 2 s, and x1 takes none
    pace = Pace(until_s=clock.now + 30.0)
    assert score_questions(ranker(), questions, KeptScores(), pace, clock=clock)[1] == "time"
    assert 28.0 <= clock.now - (pace.until_s or 0) + 30.0 <= 30.0


def test_a_run_that_failed_goes_on_where_it_ended() -> None:
    clock, kept, questions = FakeClock(), KeptScores(), questions_of(collection("x", 30))
    broken, whole = FakeServer(clock, fails_after=12), FakeServer(clock)
    with pytest.raises(RankfleetError, match="gone"):
        score_questions([ServerRanker("one", "one", broken)], questions, kept, Pace(), clock=clock)
    assert score_questions([ServerRanker("one", "one", whole)], questions, kept, Pace(), clock=clock) == (30, "all")
    assert len(whole.asked) < 29, "what was kept is not asked again"
    assert {*broken.asked, *whole.asked} == {each.text for each in questions if each.hits}


def test_a_collection_has_the_queries_that_were_scored_and_their_totals() -> None:
    clock, kept, whole = FakeClock(), KeptScores(), collection("x", 4)
    drawn = [questions_of(whole)[i] for i in (3, 1, 0)]
    for name in ("tier", "other"):
        score_questions([ServerRanker(name, name, FakeServer(clock))], drawn, kept, Pace(), clock=clock)
    scored = with_scores(whole, drawn, kept, ["tier"], ["other"])
    assert list(scored.judged.queries) == list(scored.judged.qrels) == list(scored.candidates) == ["x3", "x1", "x0"]
    assert (list(scored.scored), list(scored.against)) == (["tier"], ["other"])
    assert list(scored.scored["tier"].logits) == ["x3", "x0"]
    assert (scored.scored["tier"].seconds, scored.scored["tier"].times_ms) == (4.0, [2000.0, 2000.0])
    assert scored.scored["tier"].pairs == 4


def choice(large: float, queries: int = 100) -> Sequence[object]:
    values = {"small": [np.full(queries, 0.5)], "large": [np.linspace(large - 0.3, large + 0.3, queries)]}
    return [tiers_told(values, {"small": 1.0, "large": 5.0}, Goal(0.01, level=level)) for level in (0.95, 0.99)]


def test_a_sample_tells_or_says_how_many_queries_would() -> None:
    told, _ = choice(0.7)
    assert told.untold == []  # type: ignore[attr-defined]
    sample = Sample(100, 300, "enough", 5.0, 1, told)  # type: ignore[arg-type]
    assert str(sample) == (
        "100 of 300 queries were enough, and scoring ended there: of every tier they tell whether it loses more than "
        "0.01 nDCG@10 against the best, large."
    )
    assert sample.to_json()["cannot_tell"] == {}
    untold, _ = choice(0.52)
    words = str(Sample(100, 300, "time", 5.0, 1, untold))  # type: ignore[arg-type]
    assert words.startswith("100 of 300 queries were scored in 5 minutes: of small they cannot tell whether it loses")
    # A = .0306 and q = .52 in choice.py: (A + √(A² + 4q²m² ÷ z²)) · z² ÷ 2m² with m = .01 and z = 1.645 is 837
    assert words.endswith("about 840 queries would.")


def test_a_look_wants_more_confidence_than_the_end() -> None:
    # spread .175: at 100 queries the ends are .05 ± .029 with 95%, and .05 ± .041 with 99%
    at_the_end, at_a_look = choice(0.55)
    assert at_the_end.untold == []  # type: ignore[attr-defined]
    assert [each.option.name for each in at_a_look.untold] == ["small"]  # type: ignore[attr-defined]


def test_a_dearer_tier_that_may_be_the_best_is_not_told_either() -> None:
    # small is the cheapest and happens to be the best; large is .02 behind, give or take .03.
    by_luck, _ = choice(0.48)
    assert by_luck.best.name == "small"  # type: ignore[attr-defined]
    assert [each.option.name for each in by_luck.untold] == ["large"]  # type: ignore[attr-defined]
