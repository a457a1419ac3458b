import math
from types import SimpleNamespace

import pytest

from rankfleet.app.autoscaling import BacklogPolicy
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


def context(metrics: object, target: int = 2) -> SimpleNamespace:
    """As Serve's AutoscalingContext has it."""
    return SimpleNamespace(
        deployment_name="demo",
        aggregated_metrics=metrics,
        target_num_replicas=target,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        {},
        {"backlog_s": {}},
        {"backlog_s": {"r": "much"}},
        {"backlog_s": {"r": None}},
        {"backlog_s": 3},
        "nonsense",
    ],
)
def test_the_policy_never_raises_and_keeps_what_there_is(metrics: object) -> None:
    assert BacklogPolicy(0.2)(context(metrics))[0] == 2  # type: ignore[arg-type]


def test_the_policy_follows_the_reports() -> None:
    replicas, state = BacklogPolicy(0.2)(context({"backlog_s": {"r1": 0.5, "r2": 0.1}}))  # type: ignore[arg-type]
    assert replicas == 3
    assert state["reason"].startswith("grow to 3")
