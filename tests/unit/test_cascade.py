import numpy as np

from rankfleet.core.messages import Stage
from rankfleet.routing.cascade import promising, second_stage
from rankfleet.routing.latency import LatencyModel

MODEL = LatencyModel(0.0, 1.0, 0.0)  # a token takes a millisecond
LOGITS = np.array([0.0, 9.0, 8.5, 1.0, 8.0, 7.8, 0.5, 0.2])  # best first: 1 2 4 5 3 6 7 0
LENGTHS = np.full(8, 10)


def rows(depth: int, left_ms: float) -> list[int]:
    return second_stage(Stage("large", depth), LOGITS, LENGTHS, MODEL, left_ms).tolist()


def test_the_cut_is_where_the_scores_fall_apart() -> None:
    # Of two to six, four: 7.8 is followed by 1.0.
    assert rows(4, 1000.0) == [1, 2, 4, 5]


def test_no_more_than_there_is_time_for() -> None:
    assert rows(4, 35.0) == [1, 2]  # three at most; gaps of 0.5 behind the second and 0.2 behind the third


def test_the_first_answer_stands_when_the_slack_is_gone() -> None:
    assert rows(4, 19.0) == []


def test_fewer_candidates_than_planned() -> None:
    assert rows(20, 1000.0) == [1, 2, 4, 5, 3, 6, 7, 0]  # ten at least would be worth it
    assert rows(10, 1000.0) == [1, 2, 4, 5, 3]  # five to eight; 0.5 behind the fifth


def test_the_order_of_the_retriever_counts_where_it_means_something() -> None:
    assert promising(LOGITS, retrieved=False).tolist() == [1, 2, 4, 5, 3, 6, 7, 0]
    # Ranks by score of 0 … 7: 7 0 1 4 2 3 5 6. Sums of 1 ÷ (60 + rank) for both ranks put 1 (0 and 1) before 2
    # (1 and 2), 4 (2 and 4), 0 (7 and 0), 3 (4 and 3), 5 (3 and 5), 6 (5 and 6) and 7 (6 and 7).
    assert promising(LOGITS, retrieved=True).tolist() == [1, 2, 4, 0, 3, 5, 6, 7]
    kept = second_stage(Stage("large", 4), LOGITS, LENGTHS, MODEL, 1000.0, retrieved=True)
    assert kept.tolist() == [1, 2, 4, 0]  # as many as lie above the gap
