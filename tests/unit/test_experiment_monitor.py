"""What routers count of experiments, and what the monitor of all routers makes of it."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rankfleet.cluster.experiment_monitor import ExperimentMonitor, ExperimentReporter
from rankfleet.core.config import LiveSettings
from rankfleet.core.events import RequestEvent
from rankfleet.core.experiment_state import ExperimentReport, ExperimentState
from rankfleet.core.experiments import Experiment
from rankfleet.core.messages import RerankRequest
from rankfleet.router.experiment_counts import ExperimentCounts
from rankfleet.router.experiments import Splits
from tests.unit.fakes import DAWN_S

HOUR_S = 3600.0


def experiments(**settings: Any) -> dict[str, Experiment]:
    arms = {"control": {"weight": 1, "model": "large"}, "new": {"weight": 1}, "other": {"weight": 0}}
    return {"size": Experiment.model_validate({"arms": arms} | settings)}


SIZE = experiments()
ID = SIZE["size"].identity("size")


class Store:
    """A store of the cluster that keeps the first value of a key."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        return self.texts.get(key)

    def put(self, key: str, value: str) -> None:
        self.texts.setdefault(key, value)

    def delete(self, key: str) -> None:
        del self.texts[key]

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.texts if key.startswith(prefix)]


class Metrics:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []

    def arm_stopped(self, experiment: str, arm: str, stopped: bool) -> None:
        self.told.append((experiment, arm, stopped))


class Router:
    """A router's reporter, and the monitor that it reports to; None: it does not answer."""

    def __init__(self, name: str, monitor: ExperimentMonitor | None, store: Store) -> None:
        self.monitor, self.metrics = monitor, Metrics()
        self.reporter = ExperimentReporter(name, self.metrics, self.ask, store)
        self.reporter.follow(SIZE)
        self.listen = self.reporter.counts.listener(SIZE)

    async def ask(self, router: str, reports: Mapping[str, ExperimentReport]) -> dict[str, ExperimentState]:
        if self.monitor is None:
            raise ConnectionError("gone")
        return self.monitor.report(router, reports)

    def serve(self, arm: str, units: int, error: str | None = None, at_s: float = DAWN_S, **fields: Any) -> None:
        """One request of each of these units."""
        for unit in range(units):
            self.listen(event(arm, unit, at_s=at_s, error=error, **fields))

    @property
    def state(self) -> ExperimentState:
        return self.reporter.states[ID]


def event(arm: str, unit: int, at_s: float = DAWN_S, **fields: Any) -> RequestEvent:
    settings = {"total_ms": 10.0, "candidates": 1} | fields
    return RequestEvent(at_s=at_s, request_id="r", experiment="size", arm=arm, unit=f"{unit:016x}", **settings)


def counts_of(counts: ExperimentCounts) -> dict[str, list[list[int]]]:
    """By arm: bucket and counts of each row."""
    arms = counts.reports()[ID].arms
    return {arm: np.column_stack([each.buckets, each.counts]).tolist() for arm, each in arms.items()}


def test_requests_are_counted_by_arm_and_bucket() -> None:
    counts = ExperimentCounts({ID: ExperimentState(slow_ms=50.0)})
    counts.follow(SIZE)
    count = counts.listener(SIZE)
    for each in (
        event("new", 1),
        event("new", 1, met=True, total_ms=50.0),
        event("new", 10_001, met=False, total_ms=60.0),  # bucket 1
        event("new", 2, error="overloaded", met=None),
        event("control", 3),
    ):
        count(each)
    # bucket; requests, errors, with a budget, missed, timed, slow
    assert counts_of(counts) == {
        "new": [[1, 3, 0, 2, 1, 3, 1], [2, 1, 1, 0, 0, 0, 0]],
        "control": [[3, 1, 0, 0, 0, 1, 0]],
    }


def test_nothing_is_slow_before_it_is_known_what_slow_is() -> None:
    counts = ExperimentCounts({})
    counts.follow(SIZE)
    counts.listener(SIZE)(event("new", 1, total_ms=1e6))
    assert counts_of(counts) == {"new": [[1, 1, 0, 0, 0, 0, 0]]}


@pytest.mark.parametrize("later", [{"at_s": DAWN_S + HOUR_S}, {"step": 1}])
def test_counts_begin_anew_with_each_hour_and_each_step(later: dict[str, Any]) -> None:
    counts = ExperimentCounts({})
    counts.follow(SIZE)
    count = counts.listener(SIZE)
    count(event("new", 1))
    count(event("new", 2, **later))
    count(event("new", 3))  # of the period before: an answer that took long
    assert counts_of(counts) == {"new": [[2, 1, 0, 0, 0, 0, 0]]}


def test_another_experiment_begins_anew_and_other_weights_do_not() -> None:
    counts = ExperimentCounts({})
    counts.follow(SIZE)
    counts.listener(SIZE)(event("new", 1))
    weights = experiments(schedule=[{"at": "2030-01-01T00:00:00Z", "weights": {"new": 5}}])
    counts.follow(weights)
    counts.listener(SIZE)(event("new", 1))  # the service before this one finishes what it has begun
    assert counts_of(counts) == {"new": [[1, 2, 0, 0, 0, 0, 0]]}
    reseeded = experiments(seed="2")
    counts.follow(reseeded)
    counts.listener(SIZE)(event("new", 1))
    assert counts.reports()[reseeded["size"].identity("size")].arms == {}


async def test_the_counts_of_all_routers_stop_an_arm_in_all_of_them() -> None:
    store = Store()
    monitor = ExperimentMonitor(store)
    one, two = (Router(name, monitor, store) for name in ("one", "two"))
    for router in (one, two):
        router.serve("control", 100)
        router.serve("new", 4, error="infeasible")
    await one.reporter.report()
    assert one.state.stopped == {}, "four failures are too few"
    await two.reporter.report()
    assert two.state.stopped == {}, "and those of the same units are no more units"
    two.serve("new", 8, error="infeasible")
    await two.reporter.report()
    await one.reporter.report()
    reason = "100.0% of 16 requests failed, and 0.0% of 200 of the control's; 1.00% more are allowed"
    assert one.state.stopped == two.state.stopped == {"new": reason}
    assert one.metrics.told == two.metrics.told == [("size", "new", True)]
    assert one.state.counts["new"][:2] == (16, 16)
    assert one.state.since_s == DAWN_S


async def test_reports_that_come_twice_count_once() -> None:
    router = Router("one", ExperimentMonitor(Store()), Store())
    router.serve("control", 50)
    for _ in range(3):
        await router.reporter.report()
    assert router.state.counts["control"][0] == 50


async def test_an_arm_stays_stopped_through_new_monitors_and_new_routers(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    first = Router("one", ExperimentMonitor(store), store)
    first.serve("control", 200)
    first.serve("new", 10, error="unavailable")
    await first.reporter.report()
    assert list(first.state.stopped) == ["new"]

    first.monitor = None
    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        for _ in range(3):
            await first.reporter.report()
    assert sum("the monitor of experiments does not answer" in line for line in caplog.messages) == 1
    assert list(first.state.stopped) == ["new"], "what is known stays"

    second = Router("two", ExperimentMonitor(store), store)
    await second.reporter.prepare(SIZE)
    assert list(second.state.stopped) == ["new"], "before the first report"
    await second.reporter.report()
    assert list(second.state.stopped) == ["new"]


async def test_an_experiment_that_is_gone_is_no_longer_told_as_stopped() -> None:
    store = Store()
    router = Router("one", ExperimentMonitor(store), store)
    router.serve("control", 200)
    router.serve("new", 10, error="unavailable")
    await router.reporter.report()
    changed = experiments(seed="2")
    await router.reporter.prepare(changed)
    router.reporter.follow(changed)
    assert router.metrics.told == [("size", "new", True), ("size", "new", False)]
    assert list(router.reporter.states) == [changed["size"].identity("size")]


async def test_without_rollback_arms_are_counted_and_not_stopped() -> None:
    router = Router("one", ExperimentMonitor(Store()), Store())
    settings = experiments(rollback=None)
    router.reporter.follow(settings)
    router.serve("control", 200)
    router.serve("new", 50, error="unavailable")
    await router.reporter.report()
    assert (router.state.stopped, router.state.counts["new"][:2]) == ({}, (50, 50))


async def test_what_is_slow_follows_from_the_latencies_of_the_control() -> None:
    store, settings = Store(), experiments(rollback={"latency_p99": 2})
    router = Router("one", ExperimentMonitor(store), store)
    router.reporter.follow(settings)
    router.serve("control", 199, total_ms=10.0)
    await router.reporter.report()
    assert router.state.slow_ms is None, "too few for a 99th percentile"
    router.serve("control", 1, total_ms=10.0)
    await router.reporter.report()
    assert router.state.slow_ms == pytest.approx(2 * 1.05**48)  # 10 ms are in the bin up to 10.40 ms
    router.serve("control", 300, total_ms=10.0)
    router.serve("new", 100, total_ms=25.0)
    await router.reporter.report()
    assert list(router.state.stopped) == ["new"]
    assert "100.0% of 100 answers took longer than 2 times the control's 99th percentile" in router.state.stopped["new"]


async def test_nobody_is_asked_without_experiments() -> None:
    router = Router("one", None, Store())
    router.reporter.follow({})
    await router.reporter.report()
    assert router.reporter._fault == ""


def test_units_of_a_stopped_arm_are_answered_as_the_controls() -> None:
    states: dict[str, ExperimentState] = {}
    splits = Splits(LiveSettings(experiments=SIZE), (), states)

    def assigned(user: str) -> tuple[str, str | None]:
        found = splits.assign(RerankRequest("q", ["d"], user=user), DAWN_S)
        assert found is not None
        return found.arm, found.settings.model

    before = {user: assigned(user) for user in (f"user-{i}" for i in range(100))}
    assert set(before.values()) == {("control", "large"), ("new", None)}
    states[ID] = ExperimentState({"new": "worse"})
    assert {assigned(user) for user in before} == {("control", "large")}
    del states[ID]
    assert {user: assigned(user) for user in before} == before


def test_weights_and_margins_may_change_within_one_experiment() -> None:
    same = experiments(rollback=None, stopped=True, schedule=[{"at": "2030-01-01T00:00:00Z", "weights": {"new": 5}}])
    assert same["size"].identity("size") == ID
    changes = [{"seed": "2"}, {"unit": "session"}, {"control": "new"}, {"mode": "shadow"}]
    for change in (*changes, {"arms": {"control": {"weight": 1}}}):
        assert experiments(**change)["size"].identity("size") != ID
    assert SIZE["size"].identity("other") != ID
