import numpy as np
import pytest

from rankfleet.core.decisions import Stage
from rankfleet.estimates.calibration import probability
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.cascade import STEP, promising, ranked, second_stage

MODEL = LatencyModel(5.0, 1.0, 0.0)  # 5 ms and one for each token
LOGITS = np.array([0.0, 9.0, 8.5, 1.0, 8.0, 7.8, 0.5, 0.2])  # best first: 1 2 4 5 3 6 7 0
LENGTHS = np.array([40, 10, 20, 10, 30, 10, 10, 10])  # of these: 10 20 30 10 10 10 10 40


def rows(depth: int, left_ms: float) -> list[int]:
    return second_stage(Stage.of("large", depth), LOGITS, LENGTHS, MODEL, left_ms).tolist()


def test_as_many_are_scored_again_as_planned() -> None:
    # The scores fall most behind the fourth, 7.8 to 1.0; the time planned is for the number planned.
    assert rows(3, 1000.0) == [1, 2, 4]
    assert rows(6, 1000.0) == [1, 2, 4, 5, 3, 6]


def test_no_more_than_there_is_time_for() -> None:
    assert rows(6, 75.0) == [1, 2, 4, 5]  # 5 + 10 + 20 + 30 + 10
    assert rows(6, 74.9) == [1, 2, 4]
    assert rows(6, 15.0) == [1]


def test_without_slack_none_is_scored_again() -> None:
    assert rows(6, 14.9) == []
    assert rows(6, -3.0) == []


def test_the_second_stage_has_to_fit_at_the_99th_percentile() -> None:
    slow = LatencyModel(5.0, 1.0, 0.0, p99_factor=2.0)
    assert second_stage(Stage.of("large", 6), LOGITS, LENGTHS, slow, 85.0).tolist() == [
        1,
        2,
    ]  # 2 · 35 + 10 ms, then 2 · 65 + 10


def test_fewer_candidates_than_planned() -> None:
    assert rows(20, 1000.0) == [1, 2, 4, 5, 3, 6, 7, 0]


def test_the_retrievers_order_is_fused_with_the_scores() -> None:
    assert promising(LOGITS, retrieved=False).tolist() == [1, 2, 4, 5, 3, 6, 7, 0]
    # Ranks by score of 0 … 7: 7 0 1 4 2 3 5 6. Sums of 1 ÷ (60 + rank) for both ranks put 1 (0 and 1) before 2
    # (1 and 2), 4 (2 and 4), 0 (7 and 0), 3 (4 and 3), 5 (3 and 5), 6 (5 and 6) and 7 (6 and 7).
    assert promising(LOGITS, retrieved=True).tolist() == [1, 2, 4, 0, 3, 5, 6, 7]
    kept = second_stage(Stage.of("large", 4), LOGITS, LENGTHS, MODEL, 1000.0, retrieved=True)
    assert kept.tolist() == [1, 2, 4, 0]


def test_the_others_keep_the_order_of_the_first_stage() -> None:
    # By first: 3 5 1 4 0 2. The second stage gives 3 and 5 less than all others have.
    first, kept, second = np.array([4.0, 6.0, 3.0, 9.0, 5.0, 8.0]), np.array([3, 5]), np.array([-2.0, -1.0])
    order, scores = ranked(first, kept, second, retrieved=False)
    assert order.tolist() == [5, 3, 1, 4, 0, 2]
    lowered = [-2.0 - n * 2**-18 for n in (1, 2, 3, 4)]
    assert scores[order].tolist() == [-1.0, -2.0, *lowered]
    assert (order.dtype, scores.dtype) == (np.int64, np.float64)


def test_scores_below_the_second_stages_are_kept() -> None:
    first, kept, second = np.array([4.0, 6.0, 3.0, 3.0], np.float32), np.array([1]), np.array([5.0], np.float32)
    order, scores = ranked(first, kept, second, retrieved=False)
    assert order.tolist() == [1, 0, 2, 3]
    assert scores.tolist() == [4.0, 5.0, 3.0, 3.0 - 2**-18]  # ties fall as well
    assert first.tolist() == [4.0, 6.0, 3.0, 3.0], "what was given is as it was"


def test_the_others_follow_in_fused_order() -> None:
    # Promising, by both orders, are 1 2 4 0 3 5 6 7; by their own scores those behind would be 5 3 6 7.
    order, scores = ranked(LOGITS, np.array([1, 2, 4, 0]), np.array([1.0, 4.0, 3.0, 2.0]), retrieved=True)
    assert order.tolist() == [2, 4, 0, 1, 3, 5, 6, 7]
    below = 1.0 - 2**-18  # 3 has 1.0, as the last of the second stage has; 5 has 7.8
    assert scores[order].tolist() == [4.0, 3.0, 2.0, 1.0, below, below - 2**-18, 0.5, 0.2]


def test_ties_of_the_second_stage_are_in_promising_order() -> None:
    order, scores = ranked(np.array([1.0, 7.0, 9.0, 8.0]), np.array([2, 3, 1]), np.array([5.0, 6.0, 5.0]), False)
    assert order.tolist() == [3, 2, 1, 0]
    assert scores.tolist() == [1.0, 5.0, 5.0, 6.0]


def test_without_a_second_stage_the_fused_order_stands() -> None:
    order, scores = ranked(LOGITS, np.array([], np.int64), np.array([]), retrieved=True)
    assert order.tolist() == [1, 2, 4, 0, 3, 5, 6, 7]
    assert scores[order].tolist() == [9.0, 8.5, 8.0, *(-n * 2**-18 for n in range(5))]


def test_all_candidates_scored_again() -> None:
    order, scores = ranked(np.array([1.0, 2.0]), np.array([1, 0]), np.array([-4.0, -3.0]), retrieved=False)
    assert order.tolist() == [0, 1]
    assert scores.tolist() == [-3.0, -4.0]


@pytest.mark.parametrize("worst", [15.0, 0.0, -15.0])
def test_a_client_that_sorts_by_either_score_gets_the_order_served(worst: float) -> None:
    first = np.full(1000, 20.0, np.float32)  # all tie, and all are above what the second stage gave
    order, scores = ranked(first, np.array([0]), np.array([worst], np.float32), retrieved=False)
    assert order.tolist() == list(range(1000))
    assert (np.diff(scores) == -STEP).all()
    assert (np.diff(scores.astype(np.float32)) < 0).all()
    assert (np.diff(probability(scores)) < 0).all()
    assert scores[-1] == worst - 999 / 262144
