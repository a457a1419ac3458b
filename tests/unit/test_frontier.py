import math

import pytest

from rankfleet.estimates.frontier import TierOption, frontier_of, hull, scale_of

OPTIONS = [
    TierOption("small", 0.3, 0.0, 10.0),
    TierOption("medium", 0.4, 0.0, 40.0),
    TierOption("large", 0.5, 0.0, 160.0),
]


def test_the_price_of_a_step_is_its_gain_over_its_time() -> None:
    steps = frontier_of(OPTIONS, scale=0.2)
    # Half the range in 30 ms, the other half in 120 ms.
    assert steps.negative_prices == pytest.approx((-math.inf, -0.5 / 30, -0.5 / 120))
    assert [steps.points[steps.at(price)].tier for price in (0.0, 0.004, 0.0042, 0.016, 0.017, 9.0)] == [
        *("large", "large", "medium", "medium", "small", "small")
    ]


def test_what_ranks_worse_for_more_time_is_no_step() -> None:
    assert [r.tier for r in frontier_of([*OPTIONS, TierOption("slow", 0.25, 0.0, 20.0)]).points] == [
        "small",
        "medium",
        "large",
    ]


def test_what_a_mixture_of_others_beats_is_no_step() -> None:
    # 0.01 in 29 ms, and the next 0.09 in 1 ms: who pays for the first takes the second too.
    assert [r.tier for r in frontier_of([*OPTIONS, TierOption("lean", 0.31, 0.0, 39.0)]).points] == [
        "small",
        "medium",
        "large",
    ]


def test_a_chunk_pays_its_share_of_starting_a_batch() -> None:
    (point,) = frontier_of([TierOption("only", 0.5, 6.0, 10.0)], share=0.1).points
    assert (point.ms, point.full_ms) == (10.0, pytest.approx(10.6))


def test_corners_of_a_hull() -> None:
    assert hull([1, 2, 4, 3], [0.0, 1.0, 2.0, 1.2]) == [(0, math.inf), (1, 1.0), (2, 0.5)]


def test_equal_qualities_have_a_scale_too() -> None:
    assert scale_of([0.4, 0.4]) == 1.0
    assert scale_of([0.5, 0.3]) == pytest.approx(0.2)


def test_no_tier_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one tier"):
        frontier_of([])
