"""Health checks of replicas and routers."""

import asyncio
from dataclasses import dataclass

import pytest

from rankfleet.replica.collector import CollectorWatchdog
from rankfleet.replica.health import MAX_HELD_S, check
from rankfleet.router.health import RECENT_S, SUSPECT_FAILURES, RouterHealth
from tests.unit.fakes import FakeClock


@dataclass
class FakeWorker:
    stuck: bool = False
    halted: bool = False
    failures: int = 0
    busy: bool = False
    fault: Exception | None = None

    async def probe(self) -> None:
        if self.fault is not None:
            raise self.fault


@pytest.mark.parametrize(
    ("worker", "message"),
    [(FakeWorker(stuck=True), "does not come back"), (FakeWorker(halted=True), "nothing scores them")],
)
async def test_a_worker_that_scores_nothing_any_more_is_unhealthy(worker: FakeWorker, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        await check(worker, CollectorWatchdog())


async def test_a_worker_whose_batches_fail_is_probed() -> None:
    await check(FakeWorker(failures=30), CollectorWatchdog())  # the probe succeeds: its chunks were at fault
    broken = FakeWorker(failures=1, fault=ValueError("broken"))
    with pytest.raises(RuntimeError, match="1 batches in a row have failed, and so has a probe: ValueError: broken"):
        await check(broken, CollectorWatchdog())
    broken.busy = True
    await check(broken, CollectorWatchdog())  # behind a long batch the probe could time out


async def test_a_router_whose_probe_fails_is_unhealthy() -> None:
    clock, faults, probes = FakeClock(), list[Exception](), list[float]()

    async def probe() -> None:
        probes.append(clock.now)
        if faults:
            raise faults[0]

    health = RouterHealth(probe, clock)
    for _ in range(10):  # the probe is ranked each time: the requests were at fault
        for _ in range(SUSPECT_FAILURES):
            health.failed()
        await health.check()
    assert len(probes) == 10
    faults.append(ZeroDivisionError("float division by zero"))
    await health.check()  # nothing has failed since
    for _ in range(SUSPECT_FAILURES):
        health.failed()
    with pytest.raises(RuntimeError, match=r"3 requests in a row have failed .* ZeroDivisionError"):
        await health.check()
    health.answered()
    await health.check()


async def test_a_router_is_ready_while_rankings_are_answered() -> None:
    clock, probes = FakeClock(), list[float]()

    async def probe() -> None:
        probes.append(clock.now)
        if len(probes) == 2:
            raise OverflowError("out of range")

    health = RouterHealth(probe, clock)
    await asyncio.gather(health.ready(), health.ready())
    assert probes == [100.0], "one probe for all that ask at once"
    health.answered()
    clock.now += RECENT_S
    await health.ready()
    assert len(probes) == 1
    clock.now += 0.1
    with pytest.raises(RuntimeError, match="a probe was not ranked: OverflowError: out of range"):
        await health.ready()
    await health.ready()
    assert len(probes) == 3


async def test_a_replica_that_submits_no_chunks_is_unhealthy() -> None:
    clock = FakeClock()
    collector = CollectorWatchdog(clock)
    held: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    submitted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(collector.watch(each)) for each in (held, submitted)]
    await asyncio.sleep(0)
    submitted.set_result("in the queue")
    clock.now += MAX_HELD_S
    await check(FakeWorker(), collector)
    clock.now += 0.1
    with pytest.raises(RuntimeError, match="the batching task has ended"):
        await check(FakeWorker(), collector)
    held.set_result("in the queue")
    await asyncio.gather(*waiting)
    clock.now += 2 * MAX_HELD_S
    await check(FakeWorker(), collector)
    assert collector.held_s == 0.0
