"""When a replica says that it is of no use any more."""

import asyncio
from dataclasses import dataclass

import pytest

from rankfleet.replica.health import HELD_S, Entrance, check
from rankfleet.router.health import RECENT_S, SUSPECT_FAILURES, RouterHealth
from tests.unit.fakes import FakeClock


@dataclass
class Device:
    stuck: bool = False
    halted: bool = False
    failures: int = 0
    busy: bool = False
    fault: Exception | None = None

    async def probe(self) -> None:
        if self.fault is not None:
            raise self.fault


@pytest.mark.parametrize(
    ("device", "message"), [(Device(stuck=True), "does not come back"), (Device(halted=True), "nothing takes it")]
)
async def test_a_stuck_or_halted_device_is_unhealthy(device: Device, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        await check(device, Entrance())


async def test_a_failing_device_is_probed() -> None:
    await check(Device(failures=30), Entrance())  # what was sent to it was at fault
    broken = Device(failures=1, fault=ValueError("broken"))
    with pytest.raises(RuntimeError, match="1 batches in a row have failed, and so has a probe: ValueError: broken"):
        await check(broken, Entrance())
    broken.busy = True
    await check(broken, Entrance())  # behind a long batch a probe would say nothing


async def test_a_router_is_unhealthy_when_requests_and_a_probe_fail() -> None:
    clock, faults, probes = FakeClock(), list[Exception](), list[float]()

    async def probe() -> None:
        probes.append(clock.now)
        if faults:
            raise faults[0]

    health = RouterHealth(probe, clock)
    for _ in range(10):  # a probe is ranked each time: what was asked for was at fault
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


async def test_ready_means_that_a_ranking_was_answered_lately() -> None:
    clock, probes = FakeClock(), list[float]()

    async def probe() -> None:
        probes.append(clock.now)
        if len(probes) == 2:
            raise OverflowError("out of range")

    health = RouterHealth(probe, clock)
    await asyncio.gather(health.ready(), health.ready())
    assert probes == [100.0], "however many ask"
    health.answered()
    clock.now += RECENT_S
    await health.ready()
    assert len(probes) == 1
    clock.now += 0.1
    with pytest.raises(RuntimeError, match="a probe was not ranked: OverflowError: out of range"):
        await health.ready()
    await health.ready()
    assert len(probes) == 3


async def test_chunks_held_in_front_of_the_queue_are_unhealthy() -> None:
    clock = FakeClock()
    entrance = Entrance(clock)
    handed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    passed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(entrance.through(each)) for each in (handed, passed)]
    await asyncio.sleep(0)
    passed.set_result("in the queue")
    clock.now += HELD_S
    await check(Device(), entrance)
    clock.now += 0.1
    with pytest.raises(RuntimeError, match="the batching task has ended"):
        await check(Device(), entrance)
    handed.set_result("in the queue")
    await asyncio.gather(*waiting)
    clock.now += 2 * HELD_S
    await check(Device(), entrance)
    assert entrance.held_s == 0.0
