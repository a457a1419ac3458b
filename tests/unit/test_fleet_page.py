"""GET /v1/fleet: what a router knows of the fleet, and what it has decided."""

import asyncio
import math

import pytest

from rankfleet.api.app import HostProcess
from rankfleet.api.recent import MAX_REQUESTS, PERIOD_S, Recent
from rankfleet.autoscaler.board import Board, Change, GroupBoard
from rankfleet.cli.experiment import show
from rankfleet.core.experiment_state import ExperimentState
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from tests.unit.fakes import DAWN_S, FakeClock, fleet, http_client, send, service
from tests.unit.openapi import check_documented, openapi_page

BODY = {"query": "cat", "documents": ["a dog", "a cat"]}


async def test_the_fleet_is_told_as_this_router_knows_it() -> None:
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}})
    one.fleet.update_latency({"small": LatencyModel(10, 0, 0), "medium": LatencyModel(40, 0, 0)})
    send(one, 500.0)
    async with http_client(one) as http:
        assert (await http.post("/v1/rerank", json=BODY | {"slo_ms": 1000})).status_code == 200
        assert (await http.post("/v1/rerank", json=BODY | {"model": "fast", "slo_ms": 1})).status_code == 429
        assert (await http.post("/v1/rerank", json={})).status_code == 422
        await asyncio.sleep(0)  # answers are counted once they are on their way
        reply = await http.get("/v1/fleet")
        check_documented(await openapi_page(http), reply)
    told = reply.json()
    tiers = {tier["name"]: tier for tier in told["tiers"]}
    assert {name: tier["quality"] for name, tier in tiers.items()} == {"small": 0.3, "medium": 0.4, "large": 0.5}
    assert tiers["large"]["predicted_ms"] is None, "not measured"
    assert tiers["small"]["predicted_ms"] - tiers["small"]["idle_ms"] == pytest.approx(500.0)
    (group,) = told["groups"]
    assert (group["name"], group["backlog_s"], group["asleep"]) == ("demo", 0.5, False)
    assert told["recent"] == {
        "period_s": 0.0,
        "answered": 1,
        "with_budget": 1,
        "met": 1,
        "tiers": {"medium": 1},
        "refused": {"overloaded": 1, "invalid_request": 1},
    }
    assert (group["scaling"], group["min_replicas"], group["max_replicas"]) == (None, 1, 1)
    (decision,) = told["decisions"]
    assert (decision["tier"], decision["budget_ms"], decision["met"]) == ("medium", 1000.0, True)
    assert "medium" in decision["reason"]


async def test_the_last_scaling_decision_is_told_with_its_reason() -> None:
    change = Change(1, 12.25, 2, 4, "a surge: need 3.28 replicas")

    async def board() -> Board:
        return Board({"demo": GroupBoard("steady", "enough: need 3.10 replicas", 4, 3, change)})

    async with http_client(service(), host=HostProcess(name="router 1", board=board)) as http:
        reply = await http.get("/v1/fleet")
        check_documented(await openapi_page(http), reply)
    assert reply.json()["router"] == "router 1"
    (group,) = reply.json()["groups"]
    assert group["scaling"] == {
        "state": "steady",
        "reason": "enough: need 3.10 replicas",
        "target": 4,
        "running": 3,
        "last_change": {
            "number": 1,
            "age_s": 12.25,
            "before": 2,
            "after": 4,
            "reason": "a surge: need 3.28 replicas",
        },
    }


def test_replicas_are_told_with_their_load() -> None:
    ledger = Ledger()
    ledger.update(frozenset({"a", "b"}))
    entry = Entry(30.0, math.inf, 1.0)
    ledger.open(entry, 1.0)
    ledger.place(entry, "b", 1.0)
    ledger.eject("a", 1.0)
    (a, chunks_a, ahead_a, ejected_a), (b, chunks_b, _, ejected_b) = ledger.loads(1.0)
    assert (a, chunks_a, ahead_a, ejected_a) == ("a", 0, 0.0, True)
    assert (b, chunks_b, ejected_b) == ("b", 1, False)


def test_requests_are_forgotten_after_the_period() -> None:
    clock = FakeClock()
    recent = Recent(clock)
    recent.refused("overloaded")
    clock.now += PERIOD_S - 1
    recent.refused("expired")
    assert (recent.refusals(), recent.period_s()) == ({"overloaded": 1, "expired": 1}, 299.0)
    clock.now += 2
    assert (recent.refusals(), recent.period_s()) == ({"expired": 1}, 300.0)


def test_where_requests_are_many_the_period_is_shorter() -> None:
    clock = FakeClock()
    recent = Recent(clock)
    for _ in range(MAX_REQUESTS + 1):
        clock.now += 0.01
        recent.refused("overloaded")
    assert recent.refusals() == {"overloaded": 5000}
    assert recent.period_s() == pytest.approx(49.99)


def test_requests_that_the_fleet_could_not_serve_are_counted_and_never_forgotten() -> None:
    clock = FakeClock()
    recent = Recent(clock)
    for code in ("overloaded", "overloaded", "expired", "invalid_request", "unauthorized", "client_gone", "internal"):
        recent.refused(code)
    clock.now += 2 * PERIOD_S
    assert recent.refusals() == {}
    assert recent.not_served == {"overloaded": 2, "expired": 1, "internal": 1}


def test_requests_without_a_key_are_not_remembered() -> None:
    recent = Recent(FakeClock())
    recent.refused("unauthorized")
    recent.refused("forbidden")
    assert recent.refusals() == {"forbidden": 1}


async def test_experiments_are_told_with_weights_in_force_counts_and_what_is_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arms = {"control": {"weight": 90}, "new": {"weight": 10, "model": "small"}, "old": {"weight": 0, "stopped": True}}
    schedule = [
        {"at": "2026-11-30T00:00:00Z", "weights": {"control": 60, "new": 40}},
        {"at": "2026-12-02T00:00:00Z", "weights": {"new": 60}},
    ]
    experiments = {"size": {"arms": arms, "schedule": schedule}}
    one = service(
        experiments=experiments,
        experiment_states={
            fleet(experiments=experiments).experiments["size"].identity("size"): ExperimentState(
                {"new": "50.0% of 80 requests failed"}, None, DAWN_S, {"new": (80, 40, 40, 10, 0, 0)}
            )
        },
    )
    async with http_client(one) as http:
        reply = await http.get("/v1/fleet")
        check_documented(await openapi_page(http), reply)
    (told,) = reply.json()["experiments"]
    control, new, old = told.pop("arms")
    assert told == {
        "name": "size",
        "mode": "split",
        "unit": "user",
        "stopped": False,
        "control": "control",
        "since_s": DAWN_S,
        "next": {"at": "2026-12-02T00:00:00+00:00", "weights": {"new": 60}},
    }
    assert (control["share"], control["stopped"], control["requests"]) == (0.6, None, 0)
    assert (old["stopped"], old["weight"]) == ("by the fleet file", 0)
    assert new == {
        "name": "new",
        "changes": "small",
        "weight": 40,
        "share": 0.4,
        "stopped": "50.0% of 80 requests failed",
        "requests": 80,
        "errors": 40,
        "budgets": 40,
        "met": 30,
    }
    show(told | {"arms": [control, new, old]})
    shown = capsys.readouterr().out
    assert "size: counts since 2026-12-01 00:00 UTC" in shown
    assert "75.0% of 40" in shown
    assert "new is stopped: 50.0% of 80 requests failed" in shown
    assert "next: new 60 at 2026-12-02T00:00:00+00:00" in shown


async def test_shadow_experiments_are_told_without_counts(capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"none": {"weight": 90}, "large": {"weight": 10, "model": "large"}}
    shadow = {"mode": "shadow", "unit": "query", "arms": arms}
    one = service(experiments={"larger": shadow, "size": {"arms": arms}})
    async with http_client(one) as http:
        reply = await http.get("/v1/fleet")
        check_documented(await openapi_page(http), reply)
    size, larger = reply.json()["experiments"]
    assert [(size["name"], size["mode"]), (larger["name"], larger["mode"])] == [("size", "split"), ("larger", "shadow")]
    assert (larger["unit"], larger["since_s"], larger["next"]) == ("query", None, None)
    none, large = larger["arms"]
    assert (none["changes"], none["share"], large["changes"], large["share"]) == ("no change", 0.9, "large", 0.1)
    assert [large[key] for key in ("stopped", "requests", "errors", "budgets", "met")] == [None, 0, 0, 0, 0]
    show(larger)
    shown = capsys.readouterr().out
    assert "larger: shadow " in shown
    assert "10.00%" in shown
    assert not any(word in shown for word in ("control", "requests", "budgets"))
    show(larger | {"stopped": True})
    assert "larger: shadow, stopped" in capsys.readouterr().out
