"""What tenants may use: pairs per second, a share of the fleet, memory and requests in progress."""

import asyncio
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from rankfleet.api.admission import Admission
from rankfleet.api.dialects.dialect import Reply
from rankfleet.api.dialects.native import NATIVE
from rankfleet.api.headers import RequestHeaders
from rankfleet.api.http import RECEIVED_S_PER_BYTE, RequestReader
from rankfleet.api.keys import KeyRing, line_of
from rankfleet.api.ranking import RankingHandler
from rankfleet.core.config import FleetConfig
from rankfleet.core.decisions import Decision, Plan, Refusal
from rankfleet.core.errors import ConfigError, Overloaded, RateLimited
from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import Routing, Tenant
from rankfleet.core.work import Work
from rankfleet.engine.text.inline import INLINE_ENCODED
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.batching import QueuedChunk, feasible_chunks, select_batch
from rankfleet.replica.queue import TokenQueue
from rankfleet.router import turns
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState
from rankfleet.router.tenants import FREE_BLOCKING_S, TenantLimits
from rankfleet.router.turns import Turns
from rankfleet.simulate.policies import Policy, fixed_plan
from rankfleet.simulate.run import IN_TIME, Simulation
from rankfleet.simulate.workload import Requests, Workload
from tests.unit.fakes import (
    FakeClock,
    FakeGroup,
    arrivals_of,
    fleet,
    http_client,
    let_threads_run,
    one_tier,
    send,
    service,
)

# Rates: a bucket holds ten seconds of pairs, and one of requests.


def test_a_rate_of_requests_counts_each_and_says_how_long_to_wait() -> None:
    limits = TenantLimits({"shop": Tenant(requests_per_s=4)}, routers=2)
    for now_s in (0.0, 0.0, 0.5):
        limits.take_request("shop", now_s)
    with pytest.raises(RateLimited, match="the 4 requests per second of tenant shop; wait, or") as refused:
        limits.take_request("shop", 0.75)
    assert refused.value.retry_after_s == pytest.approx(0.25)
    limits.take_request("shop", 1.0)
    slow = TenantLimits({"shop": Tenant(requests_per_s=0.1)})
    slow.take_request("shop", 0.0)
    with pytest.raises(RateLimited):
        slow.take_request("shop", 9.9)
    for _ in range(1000):
        slow.take_request("blog", 0.0)


async def test_a_request_above_the_rate_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(line_of("k" * 40, "shop"))
    one = service(tenants={"shop": {"requests_per_s": 1}})
    async with http_client(one, keys=KeyRing(str(tmp_path / "keys.txt"))) as client:
        head = {"authorization": f"Bearer {'k' * 40}"}
        assert (await client.post("/v1/rerank", content=b"no JSON", headers=head)).status_code == 422
        refused = await client.post("/v1/rerank", content=b"no JSON", headers=head)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert float(refused.headers["retry-after-ms"]) > 0
        assert (await client.get("/v1/models", headers=head)).status_code == 429
        assert (await client.get("/healthz")).status_code == 200, "what has no key has no tenant"


def test_a_rate_allows_a_burst_and_then_says_how_long_to_wait() -> None:
    limits = TenantLimits({"shop": Tenant(pairs_per_s=10)})
    limits.take_pairs("shop", 60, 0.0)
    limits.take_pairs("shop", 40, 0.0)
    with pytest.raises(RateLimited, match="the 10 pairs per second of tenant shop") as refused:
        limits.take_pairs("shop", 30, 1.0)  # ten are there: 20 more take two seconds
    assert refused.value.retry_after_s == pytest.approx(2.0)
    limits.take_pairs("shop", 30, 3.0)
    for unlimited in ("blog", None):
        limits.take_pairs(unlimited, 10**6, 0.0)


def test_a_request_larger_than_the_bucket_is_paid_back_before_the_next() -> None:
    limits = TenantLimits({"shop": Tenant(pairs_per_s=10)})
    limits.take_pairs("shop", 250, 0.0)
    with pytest.raises(RateLimited) as refused:
        limits.take_pairs("shop", 10, 0.0)
    assert refused.value.retry_after_s == pytest.approx(16.0)  # from −150 to 10
    limits.take_pairs("shop", 10, 16.0)


def test_each_router_allows_its_part() -> None:
    limits = TenantLimits({"shop": Tenant(pairs_per_s=10)}, routers=2)
    limits.take_pairs("shop", 50, 0.0)
    with pytest.raises(RateLimited) as refused:
        limits.take_pairs("shop", 5, 0.0)
    assert refused.value.retry_after_s == pytest.approx(1.0)


def test_a_change_of_the_fleet_file_does_not_fill_the_bucket() -> None:
    before = TenantLimits({"shop": Tenant(pairs_per_s=10)})
    before.take_pairs("shop", 100, 0.0)
    after = TenantLimits({"shop": Tenant(pairs_per_s=20)}, before=before)
    with pytest.raises(RateLimited) as refused:
        after.take_pairs("shop", 20, 0.5)
    assert refused.value.retry_after_s == pytest.approx(0.5)


async def test_passages_count_as_pairs() -> None:
    clock = FakeClock()
    one = service(clock=clock, tenants={"shop": {"pairs_per_s": 1}}, long_documents="max_passage")
    # As in the tests of passages: the document takes four pairs. Ten are allowed at once.
    for _ in range(2):
        await one.rank(RerankRequest("cat", ["a dog " * 62], tenant="shop"))
    await one.rank(RerankRequest("cat", ["a", "a"], tenant="shop"))
    with pytest.raises(RateLimited) as refused:
        await one.rank(RerankRequest("cat", ["a"], tenant="shop"))
    assert refused.value.retry_after_s == pytest.approx(1.0)
    clock.now += 1.0
    await one.rank(RerankRequest("cat", ["a"], tenant="shop"))


async def test_passages_count_though_the_client_leaves_while_they_are_cut() -> None:
    one = service(clock=FakeClock(), tenants={"shop": {"pairs_per_s": 1}}, long_documents="max_passage")
    ranking = asyncio.create_task(one.rank(RerankRequest("cat", ["a dog " * 10_000], tenant="shop")))
    for _ in range(3):  # until a thread reads the text
        await asyncio.sleep(0)
    assert ranking.cancel()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    with pytest.raises(RateLimited):
        await one.rank(RerankRequest("cat", ["a"], tenant="shop"))


# Shares: a bucket holds what two seconds bring.


def test_what_shares_leave_is_divided_equally() -> None:
    limits = TenantLimits({"a": Tenant(share=0.5), "b": Tenant(), "c": Tenant()})
    assert [limits.share_of(name) for name in ("a", "b", "c")] == [0.5, 0.25, 0.25]
    unnamed = TenantLimits({})
    assert unnamed.share_of("a") == 1.0
    assert not unnamed.is_over_share("b", 0.0)
    assert unnamed.share_of("a") == 0.5


def test_a_share_is_used_up_and_comes_back() -> None:
    limits = TenantLimits({"a": Tenant(share=0.1), "b": Tenant()})
    assert not limits.is_over_share("a", 0.0)
    limits.take_device_time("a", 0.3)
    assert limits.is_over_share("a", 0.5)  # 0.2 − 0.3 + 0.05
    assert not limits.is_over_share("a", 1.5)
    assert not limits.is_over_share("b", 0.0)
    assert not limits.is_over_share(None, 0.0)


def test_a_tenant_alone_has_no_share_to_use_up() -> None:
    limits = TenantLimits({})
    limits.is_over_share("a", 0.0)
    limits.take_device_time("a", 1000.0)
    assert not limits.is_over_share("a", 0.0)
    limits.is_over_share("b", 1.0)
    assert not limits.is_over_share("a", 1.0), "what it used alone does not count against it"


def test_shares_are_of_one_fleet() -> None:
    with pytest.raises(ConfigError, match=r"the shares add up to 1\.2"):
        fleet(tenants={"a": {"share": 0.7}, "b": {"share": 0.5}})


# In the planner


def snapshot(backlog_s: float, in_flight: tuple[tuple[float, float], ...] = (), whole_tokens: int = 0) -> FleetSnapshot:
    tiers = tuple(
        TierState(name, quality, "g", LatencyModel(ms, 0.0, 0.0))
        for name, quality, ms in (("small", 0.3, 10.0), ("large", 0.5, 100.0))
    )
    return FleetSnapshot(tiers, {"g": GroupState(1, backlog_s, in_flight, 0.0, whole_tokens)}, 0.0)


def asked(over_share: bool, budget_ms: float | None = 200.0, **more: Any) -> PlanRequest:
    work = dict.fromkeys(("small", "large"), Work(1, 10, 100))
    return PlanRequest(work, 0.0, budget_ms, over_share=over_share, **more)


@pytest.mark.parametrize("whole_tokens", [0, 1000])
def test_work_above_a_share_is_ahead_of_nothing_and_everything_is_ahead_of_it(whole_tokens: int) -> None:
    busy = snapshot(0.15, ((150.0, math.inf),), whole_tokens)
    within, above = plan(asked(False), busy, 0.0), plan(asked(True), busy, 0.0)
    assert (within.tier, within.predicted_ms) == ("large", 100.0)  # type: ignore[union-attr]
    assert (above.tier, above.predicted_ms) == ("small", 160.0)  # type: ignore[union-attr]
    assert above.reason.endswith("; above the share of its tenant, so behind the work of others")


@pytest.mark.parametrize("budget_ms", [None, 60_000.0])
def test_work_above_a_share_does_not_make_queues_long(budget_ms: float | None) -> None:
    assert isinstance(plan(asked(True, budget_ms), snapshot(4.9), 0.0), Plan)
    assert isinstance(plan(asked(True, budget_ms), snapshot(4.9), 2.0), Plan), "it has arrived two seconds ago"
    refused = plan(asked(True, budget_ms), snapshot(8.0), 0.0)
    assert isinstance(refused, Refusal)
    assert refused.cause == "load"
    assert refused.reason.startswith("8 s of work are ahead")
    assert 0.05 <= refused.retry_after_s <= 8.0
    assert isinstance(plan(asked(False, budget_ms), snapshot(8.0), 0.0), Plan)


# In the queue


def chunk(name: str, deadline_s: float, over_share: bool, ms: float = 10.0) -> QueuedChunk[str]:
    return QueuedChunk(100, deadline_s, one_tier(ms), name, over_share=over_share)


def test_the_queue_serves_what_is_above_a_share_last_and_by_deadline() -> None:
    queue: TokenQueue[str] = TokenQueue(100)
    for each in (
        chunk("above, no deadline", math.inf, True),
        chunk("above, late", 9.0, True),
        chunk("above, soon", 0.5, True),
        chunk("no deadline", math.inf, False),
        chunk("with deadline", 5.0, False),
    ):
        queue.put(each, 0.0)
    order = [queue.take(0.0).batch[0].item for _ in range(5)]
    assert order == ["with deadline", "no deadline", "above, soon", "above, late", "above, no deadline"]


def test_nothing_is_given_up_for_what_is_above_a_share() -> None:
    # The large one is within its share: without shares it would be given up for the two small ones.
    waiting = [chunk("large", 0.1, False, 90.0), chunk("x", 0.095, True, 10.0), chunk("y", 0.11, True, 10.0)]
    assert feasible_chunks(waiting, 0.0) == [0, 2]
    plain = [chunk("x", 0.095, False), chunk("large", 0.1, False, 90.0), chunk("y", 0.105, False)]
    assert feasible_chunks(plain, 0.0) == [0, 2]


def test_what_is_above_a_share_makes_no_batch_longer_than_others_can_wait() -> None:
    arrivals = arrivals_of(200.0, 1.0)  # the shortest horizon is 0.26 × 200 = 52 ms
    above = [chunk(f"above {i}", 1.0, True) for i in range(9)]
    batch = select_batch([chunk("first", 1.0, False), *above], arrivals, Routing(), 10_000, 0.0)
    assert batch.batch == (0, 1, 2, 3, 4)  # 50 ms
    assert select_batch(above, arrivals, Routing(), 10_000, 0.0).batch == (0, 1, 2, 3, 4)


async def test_chunks_say_whether_they_are_above_a_share_and_what_the_default_budget_is() -> None:
    group, slo = FakeGroup(), {"slo_classes": {"usual": {"slo_ms": 150}}, "default_slo_class": "usual"}
    one = service(group, clock=FakeClock(), tenants={"a": {"share": 0}, "b": {}}, network_ms=0, **slo)
    for tenant, over_share in (("b", False), ("a", True)):
        group.chunks.clear()
        await one.rank(RerankRequest("cat", ["a", "b"], tenant=tenant, slo_ms=120))
        assert {(sent.over_share, sent.default_slo_ms) for sent in group.chunks} == {(over_share, 150)}


# In the simulator: the router, the planner and the workers as they serve


def two_tenants(**tenants: dict[str, float]) -> FleetConfig:
    """Two replicas, which score 50 pairs of 100 tokens in 25, 100 or 400 ms."""
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": 2, "max": 2}}
    return fleet(groups={"demo": group}, network_ms=0, slo_classes={"usual": {"slo_ms": 200}}, tenants=tenants)


SLO = Policy("slo", plan)
SHOP = ("shop", 30.0, 200.0, 50)
MODELS = {name: LatencyModel(2.0, ms, 0.0, 1.3) for name, ms in (("small", 0.005), ("medium", 0.02), ("large", 0.08))}


def attainment(
    config: FleetConfig,
    *streams: tuple[str, float, float | None, int],
    policy: Policy = SLO,
    models: dict[str, LatencyModel] = MODELS,
    seconds: float = 4.0,
) -> float:
    """Of the requests of the first stream. streams: tenant, requests per second, budget in ms, pairs of a request."""
    classes = {
        f"{tenant}-{i}": {"slo_ms": budget_ms, "share": 1, "tenant": tenant if config.tenants else None}
        for i, (tenant, _, budget_ms, _) in enumerate(streams)
    }
    candidates = [{"count": 50, "share": 1}]
    workload = Workload.model_validate({"classes": classes, "candidates": candidates, "tokens": 100})
    rng = np.random.default_rng(1)
    arrived = [np.cumsum(rng.exponential(1 / rate, int(rate * seconds))) for _, rate, _, _ in streams]
    kind = np.repeat(np.arange(len(arrived)), [*map(len, arrived)])
    pairs = np.array([pairs for *_, pairs in streams])
    at_s = np.concatenate(arrived)
    order = np.argsort(at_s, kind="stable")
    requests = Requests(at_s[order], kind[order], pairs[kind[order]])
    outcome = Simulation(config, models, workload, policy, seed=1).run(requests)
    return float((outcome.state[requests.kind == 0] == IN_TIME).mean())


def large_pinned(above: int) -> Policy:
    """Requests with more documents than that are for the large tier."""

    def decide(request: PlanRequest, snapshot: FleetSnapshot, now_s: float) -> Decision:
        is_large = request.documents > above
        return fixed_plan(("large",), request, snapshot) if is_large else plan(request, snapshot, now_s)

    return Policy("large pinned", decide)


@pytest.mark.parametrize(
    ("flood_per_s", "budget_ms", "pairs"),
    [(80.0, 200.0, 50), (160.0, 100.0, 50), (8.0, 200.0, 500), (8.0, None, 500), (80.0, 3.6e6, 50)],
    ids=["ten times its share", "twenty times, urgent", "large", "large, best effort", "an hour's budget"],
)
def test_a_tenant_far_above_its_share_costs_another_at_most_ten_points(
    flood_per_s: float, budget_ms: float | None, pairs: int
) -> None:
    # 80 requests a second take all of both replicas at the smallest tier.
    config = two_tenants(shop={"share": 0.5}, flood={"share": 0.1})
    alone = attainment(config, SHOP)
    assert alone > 0.99
    assert attainment(config, SHOP, ("flood", flood_per_s, budget_ms, pairs)) >= alone - 0.1


def test_a_large_request_that_has_an_hour_does_not_hold_a_replica() -> None:
    """One for the large tier takes 8 s in batches of 1.3 s; in parts, others come between them."""
    config = two_tenants(shop={"share": 0.5}, flood={"share": 0.5})
    assert attainment(config, SHOP, ("flood", 1.0, 3.6e6, 1000), policy=large_pinned(above=50)) >= 0.9


def test_tiny_requests_do_not_let_large_ones_block_others() -> None:
    """By number they make 195 ms no more than the typical budget, but not that of the tenant with 60 ms."""
    config = two_tenants(shop={"share": 0.5}, flood={"share": 0.5})
    streams = ("shop", 10.0, 60.0, 5), ("flood", 7.0, 195.0, 20), ("flood", 32.0, 200.0, 1)
    policy = large_pinned(above=15)
    beside_large = attainment(config, *streams[:2], policy=policy, seconds=8.0)
    assert beside_large > 0.95
    assert attainment(config, *streams, policy=policy, seconds=8.0) > beside_large - 0.03


def test_a_trickle_of_short_budgets_costs_others_little_at_high_load() -> None:
    """Though all other work is scored in parts because of it, and every part costs 6 ms more."""
    config = two_tenants(shop={"share": 0.5}, flood={"share": 0.5})
    shop, trickle = ("shop", 60.0, 200.0, 50), ("flood", 1.0, 10.0, 1)
    models = {name: replace(model, alpha_ms=6.0, p99_factor=1.0) for name, model in MODELS.items()}
    alone = attainment(config, shop, models=models, seconds=8.0)
    assert alone > 0.95
    assert attainment(config, shop, trickle, models=models, seconds=8.0) > alone - 0.03


def test_without_shares_the_same_load_would_cost_more() -> None:
    assert attainment(two_tenants(), SHOP, ("flood", 80.0, 200.0, 50)) < 0.85


# In the API


def test_a_tenant_holds_its_share_of_memory_and_requests() -> None:
    admission = Admission(1000)
    with admission.enter() as first, admission.enter() as second, admission.enter() as other:
        first.count_for("a", 0.25)
        first.resize(900)  # one request may always be as large as the limits allow
        first.resize(200)
        second.count_for("a", 0.25)
        with pytest.raises(Overloaded, match="leave no memory of its share"):
            second.resize(51)
        second.resize(50)
        other.count_for("b", 0.75)
        other.resize(700)
    assert (admission.reserved_bytes, admission.tenants["a"].bytes, admission.tenants["a"].requests) == (0, 0, 0)
    with admission.enter() as first, admission.enter() as second:
        first.count_for("a", 0.0001)
        with pytest.raises(Overloaded, match="1 requests of tenant a are under way"):
            second.count_for("a", 0.0001)
    assert admission.tenants["a"].requests == 0


async def test_the_pairs_of_a_rate_are_those_of_every_query() -> None:
    one = service(tenants={"shop": {"pairs_per_s": 1}}, clock=FakeClock())  # ten at once
    shared = RerankRequest("cat", ["a", "b", "a"], queries=("cat", "dog"), tenant="shop")
    await one.rank(shared)
    with pytest.raises(RateLimited, match="wait, or send fewer documents"):
        await one.rank(shared)  # 6 of the 4 that are left
    await one.rank(RerankRequest("cat", ["a", "b"], queries=("cat", "dog"), tenant="shop"))


def test_a_tenant_may_have_a_class_that_is_called_like_a_model() -> None:
    name = "BAAI/bge-reranker-v2-m3"
    config = fleet(
        slo_classes={name: {"slo_ms": 200}}, default_slo_class=name, tenants={"shop": {"slo_classes": [name]}}
    )
    assert config.tenants["shop"].slo_classes == [name]


def test_a_tenant_may_block_a_router_for_a_tenth_of_its_share() -> None:
    limits = TenantLimits({"shop": Tenant(share=0.5), "blog": Tenant(share=0.5)})
    clock = FakeClock()

    def take(limits: TenantLimits, tenant: str, seconds: float) -> None:
        limits.check_blocking(tenant, clock())
        with limits.blocking(tenant, clock):
            clock.now += seconds

    for _ in range(100):
        take(limits, "shop", 0.002)  # no more than any request takes
    started_s = clock()
    take(limits, "shop", 1.002)  # of the half second that ten seconds bring
    clock.now = started_s + 2.0
    with pytest.raises(RateLimited, match="tenant shop block the router") as refused:
        limits.check_blocking("shop", clock())
    assert refused.value.retry_after_s == pytest.approx(8.0)  # 0.4 s at a twentieth of a second each
    limits.check_blocking("shop", started_s + 10.0)
    limits.check_blocking("blog", clock())
    for nobody_else in (TenantLimits({"shop": Tenant(share=1.0)}), TenantLimits({})):
        take(nobody_else, "shop", 60.0)
        nobody_else.check_blocking("shop", clock())
        assert nobody_else.blocked_s == pytest.approx(60.0 - FREE_BLOCKING_S)
    limits = TenantLimits({}, before=limits)
    with limits.blocking(None, clock):
        clock.now += 0.5
    assert limits.blocked_s == pytest.approx(1.5 - FREE_BLOCKING_S), "the time of all, in all versions of the fleet"


@contextmanager
def request_of(tenant: str, path: str, body: bytes) -> Iterator[Request]:
    """A POST as it leaves the gate."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    with Admission(10**9).enter() as reservation:
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "rankfleet.tenant": tenant}
        yield Request(scope | {"rankfleet.reservation": reservation}, receive)


class TickingClock(FakeClock):
    """A tenth of a second passes whenever it is read."""

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


async def test_the_checks_of_a_request_count_like_its_parsing() -> None:
    one = service(clock=TickingClock())
    await one.explain(RerankRequest("cat", ["a"], tenant="shop"))
    assert one.limits.blocked_s > 0.0


async def test_a_body_that_takes_long_to_parse_is_refused_after_another(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("".join(f"{line_of(name, name)}\n" for name in ("shop", "blog")))
    one = service(tenants={"shop": {"share": 0.05}, "blog": {"share": 0.95}}, clock=TickingClock())
    async with http_client(one, keys=KeyRing(str(file))) as http:

        async def post(tenant: str) -> tuple[int, bool]:
            body = {"query": "cat", "documents": ["a"], "unknown": 1}
            reply = await http.post("/v1/rerank", json=body, headers={"x-api-key": tenant})
            return reply.status_code, "retry-after-ms" in reply.headers

        assert [await post("shop"), await post("shop"), await post("blog")] == [(422, False), (429, True), (422, False)]


async def test_parsing_for_a_client_that_has_left_counts_until_its_thread_ends() -> None:
    limits, begun, over = TenantLimits({"shop": Tenant(share=0.1)}), threading.Event(), threading.Event()
    clock = FakeClock()

    def parse(body: bytes, headers: RequestHeaders) -> Any:
        begun.set()
        over.wait()

    body = json.dumps({"rank_fields": ["t"], "query": "a" * INLINE_ENCODED}).encode()
    route = replace(next(each for each in NATIVE.routes if each.takes_long(body)), parse=parse)

    with request_of("shop", route.path, body) as request:
        reading = asyncio.create_task(RequestReader(10**6, limits, Turns(limits), clock).read(request, route))
        while not begun.is_set():
            await let_threads_run()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    clock.now += 5.0
    over.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    with pytest.raises(RateLimited, match="tenant shop block the router"):
        limits.check_blocking("shop", clock())


async def test_bodies_that_a_thread_parses_wait_for_their_turn_and_then_for_what_the_others_took() -> None:
    limits, clock, parsed = TenantLimits({"shop": Tenant(share=0.01), "blog": Tenant(share=0.99)}), FakeClock(), []

    def parse(body: bytes, headers: RequestHeaders) -> Any:
        parsed.append(headers.tenant)
        clock.now += 5.0

    body = json.dumps({"rank_fields": ["t"], "query": "a" * INLINE_ENCODED}).encode()
    route = replace(next(each for each in NATIVE.routes if each.takes_long(body)), parse=parse)
    reader = RequestReader(10**6, limits, Turns(limits), clock)

    async def read() -> None:
        with request_of("shop", route.path, body) as request:
            await reader.read(request, route)

    found = await asyncio.gather(*(read() for _ in range(8)), return_exceptions=True)
    assert len(parsed) == 1
    assert [type(each) for each in found].count(RateLimited) == 7


async def test_a_body_is_not_received_from_a_tenant_that_blocked_the_router_for_too_long() -> None:
    limits, clock, route = TenantLimits({"shop": Tenant(share=0.1)}), FakeClock(), next(iter(NATIVE.rerank))
    limits.check_blocking("shop", clock())
    with limits.blocking("shop", clock):
        clock.now += 1.0

    async def receive() -> dict[str, Any]:
        pytest.fail("the body was asked for")

    with (
        request_of("shop", route.path, b"") as request,
        pytest.raises(RateLimited, match="tenant shop block the router"),
    ):
        await RequestReader(10**6, limits, Turns(limits), clock).read(Request(request.scope, receive), route)


async def test_receiving_a_body_counts_though_its_sender_breaks_it_off() -> None:
    limits, clock, route = TenantLimits({"shop": Tenant(share=0.1)}), FakeClock(), next(iter(NATIVE.rerank))
    part = b"0" * 10**7

    async def receive() -> dict[str, Any]:
        if limits.blocked_s < 20 * RECEIVED_S_PER_BYTE * len(part):
            return {"type": "http.request", "body": part, "more_body": True}
        return {"type": "http.disconnect"}

    with request_of("shop", route.path, b"") as request, pytest.raises(ClientDisconnect):
        await RequestReader(10**9, limits, Turns(limits), clock).read(Request(request.scope, receive), route)
    with pytest.raises(RateLimited, match="tenant shop block the router"):
        limits.check_blocking("shop", clock())


async def test_writing_a_reply_counts_like_parsing_a_body() -> None:
    clock, route = FakeClock(), next(iter(NATIVE.plan))
    one = service(tenants={"shop": {"share": 0.05}, "blog": {"share": 0.95}}, clock=clock)

    def slow_reply(decision: Decision, parsed: Any) -> Reply:
        clock.now += 1.0
        return route.reply(decision, parsed)

    handler = RankingHandler(one, None, RequestReader(10**6, one.limits, one.turns, clock), Mock())
    with request_of("shop", route.path, b'{"query": "cat", "documents": ["a"]}') as request:
        assert (await handler.plan(replace(route, reply=slow_reply), request)).status_code == 200
    with pytest.raises(RateLimited, match="tenant shop block the router"):
        one.limits.check_blocking("shop", clock())


async def test_texts_of_one_tenant_do_not_change_what_is_estimated_for_another() -> None:
    # A letter a word is a token for two characters. A router that took that for the texts of all would refuse others.
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}}, default_slo_class="fast")
    one.fleet.update_latency({name: LatencyModel(1.0, 0.5, 0.0) for name in one.config.tiers})
    long_words = RerankRequest("cat", ["unbelievable " * 8], tenant="shop")
    await one.rank(replace(long_words, tenant="blog"))
    for _ in range(300):
        await one.rank(RerankRequest("x", ["x y x y"], tenant="flood", slo_ms=10_000.0))
    send(one, 1.0)  # a busy router estimates before it counts
    assert (await one.rank(long_words)).plan.fits
    assert (await one.rank(replace(long_words, tenant="blog"))).plan.fits


async def test_a_tenant_reads_long_texts_on_its_share_of_the_cores_also_for_clients_that_have_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "CORES", 2)
    one = service(tenants={"flood": {"share": 0.01}, "shop": {"share": 0.99}})
    begun, over = list[str](), asyncio.Event()

    async def work(name: str) -> str:
        begun.append(name)
        await over.wait()
        return name

    def ask(tenant: str | None, name: str) -> asyncio.Task[str]:
        return asyncio.create_task(one.turns.take(tenant, partial(work, name)))

    first, second = ask("flood", "first"), ask("flood", "second")
    others = [ask("shop", "a"), ask("shop", "b"), ask(None, "c")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {*begun} == {"first", "a", "b", "c"}
    first.cancel()
    await asyncio.sleep(0)
    assert "second" not in begun, "the thread of the first is not free yet"
    over.set()
    assert await second == "second"
    assert await asyncio.gather(*others) == ["a", "b", "c"]
    assert first.cancelled()
