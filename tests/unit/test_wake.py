"""Waking groups that have no replica."""

import asyncio

from rankfleet.router.wake import GroupWaker


class Groups:
    """Groups that answer when they are told to."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.answer = asyncio.Event()
        self.fault: Exception | None = None

    async def call(self, group: str) -> None:
        self.called.append(group)
        await self.answer.wait()
        if self.fault is not None:
            raise self.fault


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_group_is_called_once_however_many_requests_wake_it() -> None:
    groups = Groups()
    waker = GroupWaker(groups.call)
    for group in ("a", "a", "b", "a"):
        waker.wake(group)
    await settled()
    assert groups.called == ["a", "b"]


async def test_after_an_answer_the_group_can_be_woken_again() -> None:
    groups = Groups()
    waker = GroupWaker(groups.call)
    waker.wake("a")
    await settled()
    groups.answer.set()
    await settled()
    waker.wake("a")
    await settled()
    assert groups.called == ["a", "a"]


async def test_a_failure_is_logged_and_the_next_request_tries_again(caplog) -> None:  # type: ignore[no-untyped-def]
    groups = Groups()
    groups.fault = RuntimeError("no GPU is free")
    groups.answer.set()
    waker = GroupWaker(groups.call)
    waker.wake("a")
    await settled()
    assert "group a did not wake up: no GPU is free" in caplog.text
    waker.wake("a")
    await settled()
    assert groups.called == ["a", "a"]


async def test_calls_of_the_previous_version_of_the_fleet_still_count() -> None:
    groups = Groups()
    before = GroupWaker(groups.call)
    before.wake("a")
    waker = GroupWaker(groups.call, before)
    waker.wake("a")
    waker.wake("b")
    await settled()
    assert groups.called == ["a", "b"]
