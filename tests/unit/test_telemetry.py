"""Metrics, through Ray's own classes and Ray's own exporter."""

import math
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder
from ray.util import metrics

from rankfleet.cluster.telemetry import GroupTelemetry, RouterTelemetry
from rankfleet.core.decisions import GivenOrder, Plan, Stage
from rankfleet.core.experiments import Arm
from rankfleet.core.messages import Assignment, RankedDocument, Ranking
from rankfleet.core.timing import Timing
from rankfleet.estimates.load import ReplicaLoad


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What was recorded: name, value, tags. The checks of Ray's classes stay."""
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
    RouterTelemetry().answered(ranking(passages=[0], predicted_ms=math.inf, budget_ms=None))
    requests = [tags for name, _, tags in counted if name == "rankfleet_requests_total"]
    assert requests == [{"tier": "none", "slo_class": "", "arm": "", "slo": "none", "left_out": "all"}]
    assert [value for name, value, _ in counted if name == "rankfleet_documents_total"] == [1]
    assert "rankfleet_pairs_total" not in [name for name, _, _ in counted]


def test_pairs_of_all_stages_are_counted(counted: list[tuple[str, float, dict[str, str]]]) -> None:
    arm = Assignment("size", "s", "user-1", Arm(weight=1))
    answered = ranking(stages=(Stage.of("small", 5), Stage.of("large", 2)), pairs=7, assignment=arm, partial=True)
    RouterTelemetry().answered(answered)
    assert [value for name, value, _ in counted if name == "rankfleet_pairs_total"] == [7]
    [tags] = [tags for name, _, tags in counted if name == "rankfleet_requests_total"]
    assert (tags["arm"], tags["left_out"], tags["slo"]) == ("size/s", "stage", "met")


def test_times_are_recorded_in_seconds_and_against_their_prediction(
    counted: list[tuple[str, float, dict[str, str]]],
) -> None:
    timing = Timing()
    timing.scored(20.0, 15.0, now_s=0.04)
    answered = ranking(predicted_ms=50.0, timing=timing)
    RouterTelemetry().answered(answered)
    recorded = {name: value for name, value, _ in counted}
    assert recorded["rankfleet_request_duration_seconds"] == 0.04
    assert recorded["rankfleet_queue_duration_seconds"] == 0.02
    assert recorded["rankfleet_request_duration_to_predicted_ratio"] == 0.8


def test_loads_are_counted_as_they_grow(counted: list[tuple[str, float, dict[str, str]]]) -> None:
    telemetry, load = GroupTelemetry("demo"), ReplicaLoad()
    for _ in range(2):
        load.arrived(500.0)
        telemetry.load(load)
    load.scored(500.0, 250.0, True)
    load.left(500.0)
    telemetry.load(load)
    assert [(name.removeprefix("rankfleet_"), value) for name, value, _ in counted] == [
        ("backlog_seconds", 0.5),
        ("arrived_load_seconds_total", 0.5),
        ("backlog_seconds", 1.0),
        ("arrived_load_seconds_total", 0.5),
        ("backlog_seconds", 0.5),
        ("served_load_seconds_total", 0.5),
        ("device_load_seconds_total", 0.25),
        ("downgraded_load_seconds_total", 0.5),
    ]
    assert {tags["group"] for _, _, tags in counted} == {"demo"}


def all_metrics() -> list[metrics.Metric]:
    """Every metric of a router and of a replica."""
    parts = (RouterTelemetry(), GroupTelemetry("demo"))
    return [value for part in parts for value in vars(part).values() if isinstance(value, metrics.Metric)]


def test_names_on_the_metrics_port_follow_prometheus_conventions() -> None:
    """As the agent of a node exports them."""
    exporter = OpenTelemetryMetricRecorder()
    for metric in all_metrics():
        name = metric.info["name"]
        if isinstance(metric, metrics.Counter):
            exporter.register_counter_metric(name, "")
        elif isinstance(metric, metrics.Histogram):
            exporter.register_histogram_metric(name, "", metric.boundaries)
        else:
            exporter.register_gauge_metric(name, "")
        exporter.set_metric_value(name, {"tag": "value"}, 1.0)
    exported = list(text_string_to_metric_families(generate_latest(REGISTRY).decode()))
    found = {
        sample.name: family.type
        for family in exported
        if family.name.startswith("ray_rankfleet_")
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_sum", "_created"))
    }
    assert found == {
        "ray_rankfleet_requests_total": "counter",
        "ray_rankfleet_refused_requests_total": "counter",
        "ray_rankfleet_lost_chunks_total": "counter",
        "ray_rankfleet_dropped_events_total": "counter",
        "ray_rankfleet_request_duration_seconds_count": "histogram",
        "ray_rankfleet_request_duration_to_predicted_ratio_count": "histogram",
        "ray_rankfleet_queue_duration_seconds_count": "histogram",
        "ray_rankfleet_experiment_arm_stopped": "gauge",
        "ray_rankfleet_shadows_total": "counter",
        "ray_rankfleet_pairs_total": "counter",
        "ray_rankfleet_documents_total": "counter",
        "ray_rankfleet_backlog_seconds": "gauge",
        "ray_rankfleet_arrived_load_seconds_total": "counter",
        "ray_rankfleet_device_load_seconds_total": "counter",
        "ray_rankfleet_served_load_seconds_total": "counter",
        "ray_rankfleet_downgraded_load_seconds_total": "counter",
        "ray_rankfleet_batch_tokens_count": "histogram",
    }


def test_every_metric_is_in_the_table_of_what_to_watch() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert [name for metric in all_metrics() if f"`{(name := metric.info['name'])}`" not in page] == []
