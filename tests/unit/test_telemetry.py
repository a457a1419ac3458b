"""Ray's own counters, given whatever a reply may hold."""

import math
from typing import Any

import pytest
from ray.util import metrics

from rankfleet.cluster import telemetry
from rankfleet.core.messages import Assignment, GivenOrder, Plan, RankedDocument, Ranking, Stage, Timing


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What was counted: name, amount, tags. The checks of Ray's classes stay."""
    found: list[tuple[str, float, dict[str, str]]] = []
    for kind, verb in ((metrics.Counter, "inc"), (metrics.Histogram, "observe"), (metrics.Gauge, "set")):
        original = getattr(kind, verb)

        def note(self: Any, value: float, tags: dict[str, str], original: Any = original) -> None:
            original(self, value, tags)
            found.append((self.info["name"], value, tags))

        monkeypatch.setattr(kind, verb, note)
    return found


def ranking(**changes: Any) -> Ranking:
    common: dict[str, Any] = {"quality": 0.2, "reason": "for a reason"}
    common |= {"predicted_ms": changes.pop("predicted_ms", 12.0), "budget_ms": changes.pop("budget_ms", 20.0)}
    stages = changes.pop("stages", ())
    plan = Plan(stages=stages, documents=5, fits=True, **common) if stages else GivenOrder(**common)
    settings: dict[str, Any] = {
        "documents": [RankedDocument(0, None)],
        "plan": plan,
        "tokens": 0,
        "truncated": [],
        "timing": Timing(),
        "texts": ["a"],
    }
    return Ranking(**settings | changes)


def test_a_reply_in_which_nothing_was_scored_is_counted(counted: list[tuple[str, float, dict[str, str]]]) -> None:
    telemetry.Telemetry().answered(ranking(passages=[0], predicted_ms=math.inf, budget_ms=None))
    requests = [tags for name, _, tags in counted if name == "rankfleet_requests"]
    assert requests == [{"tier": "none", "slo_class": "", "arm": "", "slo": "none", "left_out": "all"}]
    assert [value for name, value, _ in counted if name == "rankfleet_documents"] == [1]
    assert "rankfleet_pairs" not in [name for name, _, _ in counted]


def test_pairs_of_all_stages_are_counted(counted: list[tuple[str, float, dict[str, str]]]) -> None:
    arm = Assignment("size", "s", "small")
    answered = ranking(stages=(Stage.of("small", 5), Stage.of("large", 2)), pairs=7, assignment=arm, partial=True)
    telemetry.Telemetry().answered(answered)
    assert [value for name, value, _ in counted if name == "rankfleet_pairs"] == [7]
    [tags] = [tags for name, _, tags in counted if name == "rankfleet_requests"]
    assert (tags["arm"], tags["left_out"], tags["slo"]) == ("size/s", "stage", "met")
