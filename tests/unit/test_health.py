"""When a replica says that it is of no use any more."""

import asyncio
from dataclasses import dataclass

import pytest

from rankfleet.app.health import HELD_S, HOPELESS, RECENT_S, SUSPECT, Entrance, RouterHealth, check
from tests.unit.fakes import FakeClock


@dataclass
class Device:
    stuck: bool = False
    halted: bool = False
    failures: int = 0
    fault: Exception | None = None

    async def probe(self) -> None:
        if self.fault is not None:
            raise self.fault


@pytest.mark.parametrize(
    ("device", "message"), [(Device(stuck=True), "does not come back"), (Device(halted=True), "nothing takes it")]
)
async def test_a_device_that_does_nothing_any_more(device: Device, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        await check(device, Entrance())


async def test_a_device_that_fails_is_probed_and_one_that_does_nothing_else_needs_no_probe() -> None:
    await check(Device(failures=3), Entrance())  # what was sent to it may be at fault
    with pytest.raises(RuntimeError, match="1 batches in a row have failed, and so has a probe: ValueError: broken"):
        await check(Device(failures=1, fault=ValueError("broken")), Entrance())
    with pytest.raises(RuntimeError, match=f"{HOPELESS} batches in a row have failed"):
        await check(Device(failures=HOPELESS), Entrance())


async def test_a_router_that_keeps_failing_says_so_and_one_odd_request_does_not_make_it() -> None:
    clock, faults = FakeClock(), list[Exception]()

    async def probe() -> None:
        if faults:
            raise faults[0]

    health = RouterHealth(probe, clock)
    for _ in range(SUSPECT):
        health.failed()
    await health.check()  # a probe is ranked: what was asked for was at fault
    faults.append(ZeroDivisionError("float division by zero"))
    with pytest.raises(RuntimeError, match=r"3 requests in a row have failed .* ZeroDivisionError"):
        await health.check()
    health.answered()
    await health.check()
    for _ in range(HOPELESS):
        health.failed()
    faults.clear()
    with pytest.raises(RuntimeError, match="20 requests in a row"):
        await health.check()


async def test_ready_means_that_a_ranking_was_just_answered() -> None:
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


async def test_chunks_that_nobody_hands_on() -> None:
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
