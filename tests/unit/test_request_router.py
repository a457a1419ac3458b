"""Serve's own routing loop with our request router in it, as Serve unpickles it in the router's process: real replicas,
requests and metadata of Ray's, no actors."""

import asyncio
import itertools
import math
import time
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
from ray.cloudpickle import cloudpickle
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata, RunningReplicaInfo
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from rankfleet.cluster import envelope, request_router
from rankfleet.cluster.deployment_options import REQUEST_ROUTER
from rankfleet.cluster.envelope import Envelope, ledger_of
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.estimates.precision import Precision
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from tests.unit.fakes import one_tier

GROUP = DeploymentID(name="demo", app_name="rankfleet")
PAIRS = TokenizedPairs(np.arange(4, dtype=np.int32), np.array([4], np.int32), np.array([2], np.int32))
A, B = "fingerprint of a", "fingerprint of b"


class WithoutActor(RunningReplicaInfo):
    """What Serve's controller says of a replica; its actor cannot be looked up without a cluster."""

    def get_actor_handle(self) -> None:  # type: ignore[override]
        return None


class Replica(RunningReplica):
    """A replica that says how many requests it has without an actor."""

    queue_len = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.queue_len


def replica(name: str, *models: str, fault: str = "", silent: bool = False) -> Replica:
    """models: that it reports to host. silent: it has not reported anything yet."""
    precisions = {name: {"dtype": "int8", "reason": "the fastest", "pairs_per_s": {}} for name in models}
    stats = {"hosts": list(models), "precisions": precisions, "settings": "s1", "fault": fault}
    info = WithoutActor(ReplicaID(name, GROUP), "n", "192.0.2.1", None, f"actor {name}", 4000)
    return Replica(WithoutActor(**vars_of(info) | {"routing_stats": {} if silent else stats}))


def vars_of(info: RunningReplicaInfo) -> dict[str, object]:
    return {name: value for name, value in vars(info).items() if not name.startswith("_")}


@pytest.fixture(autouse=True)
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """That of the group in the process of a router."""
    monkeypatch.setattr(envelope, "LEDGERS", {})
    return ledger_of("demo")


def as_in_another_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the request router as the router's process gets it: Serve pickles it with its whole module. Where it
    was pickled, unpickling would find the same class again."""
    config = RequestRouterConfig(request_router_class=REQUEST_ROUTER)
    with monkeypatch.context() as patch:
        patch.setattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", WeakValueDictionary())
        return config.get_request_router_class()


LeastWorkRouter = as_in_another_process(pytest.MonkeyPatch())


def router(*replicas: Replica) -> RequestRouter:
    """As Serve makes it for a handle inside the router's replica."""
    made = LeastWorkRouter(
        deployment_id=GROUP, handle_source=DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True
    )
    made.initialize_state()
    made.update_replicas(list(replicas))
    for each in replicas:
        made.on_new_queue_len_info(each.replica_id, 0)
    return made


IDS = itertools.count()


def request(ms: float = 10.0, model: str = A, call: str = "score") -> PendingRequest:
    """A call with a chunk of this predicted time, which is in flight from now on."""
    entry = Entry(ms, math.inf, time.perf_counter(), frontier=one_tier(ms), models=(model,))
    ledger_of("demo").open(entry, entry.sent_s)
    number = next(IDS)
    metadata = RequestMetadata(f"request {number}", f"internal {number}", call_method=call)
    return PendingRequest([Envelope(Chunk(("small",), PAIRS), entry)] if call == "score" else [], {}, metadata)


async def sent(router: RequestRouter, pending: PendingRequest) -> str:
    """The replica that Serve sends a request to, by its own loop."""
    async with asyncio.timeout(5):
        chosen = await router._choose_replica_for_request(pending)
    router.on_request_routed(pending, chosen.replica_id, object())  # type: ignore[arg-type]
    return chosen.replica_id.unique_id


def completed(pending: PendingRequest) -> None:
    ledger_of("demo").close(pending.args[0].entry, time.perf_counter())


def test_the_routers_process_has_another_class_than_the_module() -> None:
    assert LeastWorkRouter is not request_router.LeastWorkRouter
    assert LeastWorkRouter.__name__ == request_router.LeastWorkRouter.__name__


async def test_a_chunk_goes_to_the_replica_with_the_least_predicted_work() -> None:
    demo = router(replica("r1", A), replica("r2", A))
    first = await sent(demo, request(ms=50_000.0))
    other = {"r1": "r2", "r2": "r1"}[first]
    assert [await sent(demo, request(ms=30_000.0)) for _ in range(3)] == [other, other, first], "50 s against 30 + 30"


async def test_an_answered_chunk_counts_no_more() -> None:
    demo = router(replica("r1", A), replica("r2", A))
    large = request(ms=50.0)
    first = await sent(demo, large)
    assert await sent(demo, request(ms=20.0)) != first
    completed(large)
    assert await sent(demo, request(ms=20.0)) == first


async def test_chunks_that_are_sent_at_once_are_spread() -> None:
    demo = router(*(replica(name, A) for name in ("r1", "r2", "r3", "r4")))
    async with asyncio.timeout(5):
        assert sorted(await asyncio.gather(*(sent(demo, request()) for _ in range(8)))) == sorted(
            ["r1", "r2", "r3", "r4"] * 2
        )


async def test_a_chunk_goes_to_a_replica_that_hosts_its_model_even_if_that_is_busier() -> None:
    demo = router(replica("r1", A), replica("r2", B))
    assert [await sent(demo, request(ms=90.0, model=B)) for _ in range(3)] == ["r2", "r2", "r2"]


async def test_other_replicas_are_preferred_to_one_that_lost_a_chunk(ledger: Ledger) -> None:
    demo = router(replica("r1", A), replica("r2", A))
    ledger.eject("r1", time.perf_counter())
    assert [await sent(demo, request()) for _ in range(3)] == ["r2", "r2", "r2"]


async def test_what_a_replica_reported_counts_too(ledger: Ledger) -> None:
    demo = router(replica("r1", A), replica("r2", A))
    ledger.answered("r1", backlog_s=60.0, now_s=time.perf_counter())
    assert [await sent(demo, request()) for _ in range(3)] == ["r2", "r2", "r2"]


async def test_an_entry_names_the_replica_that_got_its_chunk() -> None:
    demo = router(replica("r1", A))
    pending = request()
    assert pending.args[0].entry.replica == ""
    await sent(demo, pending)
    assert pending.args[0].entry.replica == "r1"


async def test_a_chunk_counts_at_the_replica_that_serve_gave_it_to() -> None:
    """Serve may give a chunk the replica that was chosen for another one."""
    demo = router(replica("r1", A), replica("r2", A))
    large = request(ms=50.0)
    chosen = await sent(demo, large)
    other = {"r1": "r2", "r2": "r1"}[chosen]
    demo.on_request_routed(large, ReplicaID(other, GROUP), object())
    assert large.args[0].entry.replica == other
    assert [await sent(demo, request(ms=20.0)) for _ in range(2)] == [chosen, chosen]


async def test_calls_without_a_chunk_are_routed_as_well() -> None:
    demo = router(replica("r1", A))
    assert await sent(demo, request(call="latency")) == "r1"


def full(name: str) -> Replica:
    """A replica that has as many requests as Serve lets it have."""
    made = replica(name, A)
    made.queue_len = made.max_ongoing_requests
    return made


async def is_balanced(demo: RequestRouter) -> bool:
    """Whether no work is counted at either of two replicas: two small chunks then go to one each."""
    return {await sent(demo, request(ms=1.0)), await sent(demo, request(ms=1.0))} == {"r1", "r2"}


async def test_a_full_replica_is_passed_over_and_no_work_is_counted_there() -> None:
    demo, busy = router(), full("r1")
    demo.update_replicas([busy, replica("r2", A)])
    demo.on_new_queue_len_info(busy.replica_id, busy.queue_len)
    for _ in range(4):  # whichever of the two is chosen first
        chunk = request(ms=50.0)
        assert await sent(demo, chunk) == "r2"
        completed(chunk)
    busy.queue_len = 0
    demo.on_new_queue_len_info(busy.replica_id, 0)
    assert await is_balanced(demo)


async def test_a_full_replica_does_not_make_serves_loop_spin() -> None:
    demo, busy = router(), full("r1")
    demo.update_replicas([busy])
    demo.on_new_queue_len_info(busy.replica_id, busy.queue_len)
    pauses: list[int] = []

    async def pause(attempt: int) -> None:
        """In place of Serve's pause, in which a slot becomes free."""
        pauses.append(attempt)
        busy.queue_len = 0
        demo.on_new_queue_len_info(busy.replica_id, 0)

    demo._backoff = pause
    pending = request()
    assert await demo.choose_replicas([busy], pending) == [[busy]]
    assert pending.routing_context.should_backoff, "else Serve would ask again at once, for ever"
    assert (await sent(demo, pending), pauses) == ("r1", [0])


async def test_a_request_that_is_cancelled_while_it_waits_counts_nowhere() -> None:
    demo, busy = router(), full("r1")
    demo.update_replicas([busy])
    demo.on_new_queue_len_info(busy.replica_id, busy.queue_len)
    pending = request(ms=50.0)
    waiting = asyncio.create_task(sent(demo, pending))
    while not pending.args[0].entry.replica:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    completed(pending)
    busy.queue_len = 0
    other = replica("r2", A)
    demo.update_replicas([busy, other])
    for each in (busy, other):
        demo.on_new_queue_len_info(each.replica_id, 0)
    assert await is_balanced(demo)


async def test_requests_that_waited_for_a_replica_are_sent_in_order_of_arrival() -> None:
    demo = router()
    order: list[int] = []

    async def ask(number: int) -> None:
        await sent(demo, request())
        order.append(number)

    waiting = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    first = replica("r1", A)
    demo.on_new_queue_len_info(first.replica_id, 0)
    demo.update_replicas([first])
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]


async def test_the_ledger_is_told_which_replicas_run_what_they_host_and_who_cannot_follow(ledger: Ledger) -> None:
    demo = router(replica("r1", A, B), replica("r2", A, fault="tier b: no such folder"), replica("r3", silent=True))
    assert ledger.running == {"r1", "r2", "r3"}
    assert ledger.hosts == {"r1": {A, B}, "r2": {A}}
    assert ledger.faults == [("s1", "tier b: no such folder")]
    assert ledger.precisions[A] == Precision("int8", "the fastest")
    demo.on_replica_actor_died(ReplicaID("r2", GROUP))
    assert (ledger.running, ledger.faults) == ({"r1", "r3"}, [])
    demo.update_replicas([replica("r3", B)])
    assert (ledger.running, ledger.hosts) == ({"r3"}, {"r3": {B}})
