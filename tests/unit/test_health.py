"""When a replica says that it is of no use any more."""

import asyncio
from dataclasses import dataclass

import pytest

from rankfleet.app.health import HELD_S, Entrance, check
from tests.unit.fakes import FakeClock


@dataclass
class Device:
    stuck: bool = False
    halted: bool = False


@pytest.mark.parametrize(
    ("device", "message"), [(Device(stuck=True), "does not come back"), (Device(halted=True), "nothing takes it")]
)
def test_a_device_that_does_nothing_any_more(device: Device, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        check(device, Entrance())


async def test_chunks_that_nobody_hands_on() -> None:
    clock = FakeClock()
    entrance = Entrance(clock)
    handed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    passed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(entrance.through(each)) for each in (handed, passed)]
    await asyncio.sleep(0)
    passed.set_result("in the queue")
    clock.now += HELD_S
    check(Device(), entrance)
    clock.now += 0.1
    with pytest.raises(RuntimeError, match="the batching task has ended"):
        check(Device(), entrance)
    handed.set_result("in the queue")
    await asyncio.gather(*waiting)
    clock.now += 2 * HELD_S
    check(Device(), entrance)
    assert entrance.held_s == 0.0
