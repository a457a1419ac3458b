import math

import pytest

from rankfleet.scheduling.autoscaling import decide


@pytest.mark.parametrize(
    ("backlogs", "current", "replicas"),
    [
        ([], 1, 1),
        ([0.0], 1, 1),
        ([0.19], 1, 1),
        ([0.21], 1, 2),  # above 0.2 s for one
        ([0.5, 0.5], 2, 4),  # 1.0 s needs five, four are allowed
        ([0.0, 0.0], 2, 1),
        ([0.09, 0.09], 2, 2),  # one could carry 0.18 s, but would be at 90% of the target: stay
        ([0.06, 0.06], 2, 1),
        ([math.nan, 0.1], 2, 1),
        ([-1.0, math.inf], 1, 1),
    ],
)
def test_targets(backlogs: list[float], current: int, replicas: int) -> None:
    assert decide(backlogs, current, least=1, most=4, target_backlog_s=0.2).replicas == replicas


def test_a_decision_says_why() -> None:
    assert decide([0.5], 1, 1, 4, 0.2).reason == "grow to 3: 0.50 s of work on 1 replicas, target 0.20 s each"


def test_to_zero_where_allowed() -> None:
    assert decide([0.0], 1, 0, 4, 0.2).replicas == 0
