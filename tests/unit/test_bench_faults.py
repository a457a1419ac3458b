"""The figures that the benches of faults and of memory compute from replies and samples."""

import os

import pytest

from rankfleet.bench.fault_fleet import fault_test_fleet, reserving_more
from rankfleet.bench.fault_traffic import HEAVY, MIXED, BenchLoad
from rankfleet.bench.faults import SCENARIOS, Event, Events
from rankfleet.bench.outcomes import normal_again_s, refusals, reply_counts
from rankfleet.bench.soak import MemorySamples, resident_bytes
from rankfleet.bench.traffic import Call, Reply
from rankfleet.cluster.update import needs_restart
from tests.unit.fakes import fleet


def reply(status: int = 200, took_ms: float = 50.0, at_s: float = 1.0, scored: bool = True) -> Reply:
    return Reply(Call(at_s, 0, 100.0, b""), status, took_ms, scored=scored, error="" if status == 200 else "why")


def test_every_request_is_counted_once() -> None:
    replies = [
        reply(),
        reply(took_ms=150.0),
        reply(scored=False, took_ms=99.0),
        reply(429),
        reply(500),
        reply(0, took_ms=7.0),
    ]
    figures = reply_counts(replies)
    assert {k: figures[k] for k in ("requests", "ok", "refused", "failed", "late", "unscored")} == {
        "requests": 6,
        "ok": 3,
        "refused": 1,
        "failed": 2,
        "late": 1,
        "unscored": 1,
    }
    assert figures["p50_ms"] == 99.0
    assert figures["failed_by_status"] == {"0": 1, "500": 1}
    assert figures["failures"] == ["at 1.0 s, 50 ms: why", "at 1.0 s, 7 ms: why"]


@pytest.mark.parametrize(
    ("capacity_per_s", "rate_per_s", "budgets_ms"),
    [
        (40.0, 8.0, {"standard": 1600.0, "relaxed": 8000.0, "batch": None}),  # a client waits 8 / 40 s
        (2.5, 0.5, {"standard": 25_600.0, "relaxed": 128_000.0, "batch": None}),
    ],
)
def test_a_slow_fleet_gets_fewer_requests_and_longer_budgets(
    capacity_per_s: float, rate_per_s: float, budgets_ms: dict[str, float | None]
) -> None:
    sent = BenchLoad(capacity_per_s, 0.2, 60.0)
    assert sent.proportions == {
        "capacity_per_s": capacity_per_s,
        "rate_per_s": rate_per_s,
        "budgets_ms": budgets_ms,
    }
    assert {name: each.slo_ms for name, each in sent.workload.classes.items()} == budgets_ms


def test_capacity_is_measured_with_the_sizes_of_a_mix_and_time_enough() -> None:
    for mix in (MIXED, HEAVY):
        assert (mix.ample.candidates, mix.ample.tokens) == ([*mix.candidates], mix.tokens)
        assert [each.slo_ms for each in mix.ample.classes.values()] == [60_000.0]


def test_a_request_that_was_given_up_in_a_queue_is_not_refused_at_once() -> None:
    call = Call(1.0, 0, 100.0, b"")
    given_up = "the budget ended in the queue; retry later or allow more time"
    refused = [Reply(call, 429, seen, server_ms=own, error="no tier fits") for seen, own in ((9.0, 1.0), (11.0, 3.0))]
    late = Reply(call, 429, 480.0, server_ms=470.0, error=f'{{"error": {{"message": "{given_up}"}}}}')
    assert refusals([*refused, late, reply()]) == {
        "given_up": 1,
        "refused_p50_ms": 10.0,
        "refused_p90_ms": 10.8,
        "refused_p99_ms": 10.98,
        "refused_server_p50_ms": 2.0,
        "refused_server_p99_ms": 2.98,
    }
    assert refusals([])["refused_server_p99_ms"] is None


def test_a_client_waits_half_a_minute_longer_than_its_budget_or_than_the_router_looks_for_a_replica() -> None:
    assert Call(0.0, 0, 2000.0, b"").timeout_s == 32.0
    assert Call(0.0, 0, None, b"").timeout_s == 150.0


@pytest.mark.parametrize(
    ("replies", "again_s"),
    [
        ([reply(at_s=10.0), reply(at_s=20.0)], 0.0),
        ([reply(at_s=10.0, took_ms=300), reply(at_s=12.5, status=429), reply(at_s=20.0)], 2.5),
        ([reply(at_s=10.0), reply(at_s=20.0, took_ms=300)], None),
    ],
)
def test_latency_is_normal_again_after_the_last_slow_request(replies: list[Reply], again_s: float | None) -> None:
    assert normal_again_s(replies, 10.0, max_ms=200.0) == again_s


def test_an_action_that_fails_is_recorded() -> None:
    def fail() -> str:
        raise OSError("no such process")

    events = Events([Event(-1.0, lambda: "killed one"), Event(-1.0, fail)])
    # Both are due already, so nothing waits.
    events.run(wait=lambda seconds: None)
    assert [done["what"] for done in events.done] == ["killed one", "could not be done: OSError: no such process"]


def test_memory_growth_is_between_the_windows_of_processes_that_stay() -> None:
    memory = MemorySamples()
    mib = 2**20
    memory.samples = {
        "demo 1": [(t, 100 * mib if t < 400 else 110 * mib) for t in range(0, 1000, 5)],
        "demo 2": [(t, 500 * mib) for t in range(0, 500, 5)],
    }
    # Windows of 60 s: 300 to 360 and 940 to 1,000.
    assert memory.growth(300.0, 1000.0) == {"demo 1": {"first_mib": 100.0, "last_mib": 110.0, "growth": 0.1}}


def test_only_a_live_process_has_resident_memory() -> None:
    assert (resident_bytes(os.getpid()) or 0) > 2**20
    assert resident_bytes(2**22 + 1) is None


def test_the_fleet_of_the_fault_bench_has_two_of_each_process() -> None:
    config = fault_test_fleet(None)
    assert config.routers >= 2
    assert all(group.replicas.min >= 2 for group in config.groups.values())
    assert set(SCENARIOS) == {"calm", "kill", "hang", "node", "redeploy", "cancel", "overload"}
    assert all("\n" not in (scenario.__doc__ or "\n") for scenario in SCENARIOS.values()), "a cell of a table"


def test_the_redeploy_scenario_replaces_every_process() -> None:
    config = fleet()
    changed = reserving_more(config)
    assert changed.router_cpus > config.router_cpus
    assert all(changed.groups[name].cpus > group.cpus for name, group in config.groups.items())
    assert needs_restart(config, changed)
