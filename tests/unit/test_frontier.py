"""The concave frontier of quality over device time."""

import math

import pytest

from rankfleet.estimates.frontier import Frontier, TierOption, quality_range, upper_hull
from tests.unit.fakes import tier_option

OPTIONS = [
    tier_option("small", 0.3, 10.0),
    tier_option("medium", 0.4, 40.0),
    tier_option("large", 0.5, 160.0),
]


def test_the_price_of_a_point_is_its_gain_over_its_additional_time() -> None:
    frontier = Frontier.of(OPTIONS, quality_unit=0.2)
    # Half of the unit for 30 ms, the other half for 120 ms.
    assert frontier.negative_prices == pytest.approx((-math.inf, -0.5 / 30, -0.5 / 120))


@pytest.mark.parametrize(
    ("price", "tier"),
    [(0.0, "large"), (0.004, "large"), (0.0042, "medium"), (0.016, "medium"), (0.017, "small"), (9.0, "small")],
)
def test_a_higher_price_takes_a_cheaper_tier(price: float, tier: str) -> None:
    frontier = Frontier.of(OPTIONS, quality_unit=0.2)  # prices 0.0167 and 0.00417
    assert frontier.points[frontier.index_at(price)].tier == tier


@pytest.mark.parametrize(
    "option",
    [
        tier_option("slow", 0.25, 20.0),  # small is better and faster
        tier_option("lean", 0.31, 39.0),  # 0.01 for 29 ms; the next 0.09 for 1 ms: medium is worth it first
    ],
)
def test_a_tier_that_others_beat_is_not_on_the_frontier(option: TierOption) -> None:
    assert [point.tier for point in Frontier.of([*OPTIONS, option]).points] == ["small", "medium", "large"]


def test_the_hull_has_corners_and_prices() -> None:
    # (3, 1.2) lies below the line from (2, 1.0) to (4, 2.0).
    assert upper_hull([1, 2, 4, 3], [0.0, 1.0, 2.0, 1.2]) == [(0, math.inf), (1, 1.0), (2, 0.5)]


def test_the_quality_range_of_equal_qualities_is_one() -> None:
    assert quality_range([0.4, 0.4]) == 1.0
    assert quality_range([0.5, 0.3]) == pytest.approx(0.2)


def test_a_frontier_needs_a_tier() -> None:
    with pytest.raises(ValueError, match="at least one tier"):
        Frontier.of([])
