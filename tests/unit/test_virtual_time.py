"""The event loop of the simulator."""

import asyncio
import gc
import math
import warnings
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

import pytest

from rankfleet.simulate.virtual_time import VirtualLoop, run


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_run_within_another_loop_is_refused() -> None:
    waiting = asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="an event loop is running in this thread"):
        run(waiting)


def test_calls_are_made_in_order_of_time_then_as_they_were_set() -> None:
    seen = list[tuple[str, float]]()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def note(name: str) -> None:
            seen.append((name, loop.time()))

        loop.call_at(2.0, note, "c")
        loop.call_later(1.0, note, "a")
        loop.call_at(2.0, note, "d")
        loop.call_later(1.0, lambda: (note("b"), loop.call_soon(note, "soon"), loop.call_later(0.0, note, "later")))
        loop.call_soon(note, "first")
        loop.call_at(-5.0, note, "past")
        await asyncio.sleep(3.0)
        assert loop.is_running()

    run(main())
    assert seen == [
        ("first", 0.0),
        ("past", 0.0),
        ("a", 1.0),
        ("b", 1.0),
        ("soon", 1.0),
        ("later", 1.0),
        ("c", 2.0),
        ("d", 2.0),
    ]


def test_time_stands_still_while_something_is_ready() -> None:
    async def main() -> tuple[float, float]:
        timer = asyncio.create_task(asyncio.sleep(0.001))
        for _ in range(1000):
            await asyncio.sleep(0)
        ready_until_s = now()
        await timer
        return ready_until_s, now()

    assert run(main()) == (0.0, 0.001)


def test_a_cancelled_call_is_not_made_and_takes_no_time() -> None:
    async def main() -> tuple[list[str], float]:
        loop, seen = asyncio.get_running_loop(), list[str]()
        soon, at_two = loop.call_soon(seen.append, "soon"), loop.call_at(2.0, seen.append, "at two")
        at_one = loop.call_at(1.0, lambda: (seen.append("at one"), at_two_too.cancel()))
        at_two_too = loop.call_at(2.0, seen.append, "at two, too")
        loop.call_at(2.0, seen.append, "kept")
        for handle in (soon, at_two):
            handle.cancel()
        assert (soon.cancelled(), at_one.cancelled(), at_one.when()) == (True, False, 1.0)
        loop.call_at(9.0, seen.append, "never").cancel()
        await asyncio.sleep(3.0)
        return seen, now()

    assert run(main()) == (["at one", "kept"], 3.0)


def test_time_outs_end_in_time() -> None:
    async def main() -> list[float]:
        ends = list[float]()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.sleep(5.0)
        ends.append(now())
        async with asyncio.timeout(1.0) as timeout:
            await asyncio.sleep(0.5)
            timeout.reschedule(now() + 2.0)
            await asyncio.sleep(1.5)
        ends.append(now())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(-math.inf):
                await asyncio.sleep(0.5)
        ends.append(now())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1.0)
        return [*ends, now()]

    assert run(main()) == [1.0, 3.0, 3.0, 4.0]


def test_whoever_waits_for_others_goes_on_when_they_have_come() -> None:
    async def after(delay_s: float, event: asyncio.Event) -> float:
        await event.wait()
        return await asyncio.sleep(delay_s, now())

    async def main() -> list[Any]:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(1.0, event.set)
        together = await asyncio.gather(*(after(delay_s, event) for delay_s in (2.0, 1.0, 0.0)))
        tasks = [asyncio.create_task(after(delay_s, event)) for delay_s in (1.0, 2.0)]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first_s = now()
        late, _ = await asyncio.wait(left, timeout=0.5)
        waited_s = now()
        async with asyncio.TaskGroup() as group:
            group.create_task(after(0.25, event))
        queue: asyncio.Queue[float] = asyncio.Queue(1)
        async with asyncio.Lock():
            asyncio.get_running_loop().call_later(0.25, queue.put_nowait, 7.0)
            got = await queue.get()
        return [together, len(done), first_s, late, waited_s, got, now(), await asyncio.shield(tasks[1]), now()]

    assert run(main()) == [[1.0, 1.0, 1.0], 1, 4.0, set(), 4.5, 7.0, 5.0, 3.0, 5.0]


def test_a_cancelled_task_ends_where_it_waits() -> None:
    async def main() -> list[Any]:
        seen = list[Any]()

        async def wait() -> None:
            try:
                await asyncio.sleep(5.0)
            finally:
                seen.append(now())
                await asyncio.sleep(1.0)
                seen.append(now())

        task = asyncio.create_task(wait(), name="waits")
        await asyncio.sleep(2.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [*seen, task.cancelled(), task.get_name()]

    assert run(main()) == [2.0, 3.0, True, "waits"]


def test_a_task_has_one_context_even_if_it_was_empty() -> None:
    number: ContextVar[int] = ContextVar("number")

    async def main() -> int:
        number.set(3)
        await asyncio.sleep(1.0)
        return number.get()

    async def in_empty_context() -> int:
        return await asyncio.create_task(main(), context=Context())

    assert run(in_empty_context()) == 3
    assert number.get(None) is None


@pytest.mark.parametrize("timers", [(), (math.inf,)])
def test_waiting_for_what_never_comes_is_an_error(timers: tuple[float, ...]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for when in timers:
            loop.call_at(when, print)
        loop.call_later(1.0, print).cancel()
        await loop.create_future()

    with pytest.raises(RuntimeError, match="everything waits, and no timer is set"):
        run(main())


async def fail_after(delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    raise ValueError("broken")


def test_errors_are_raised_though_nobody_waited_for_the_task() -> None:
    async def main(wait: Callable[[asyncio.Task[None]], Any]) -> str:
        await wait(asyncio.create_task(fail_after(1.0)))
        return "done"

    with pytest.raises(ValueError, match="broken"):
        run(fail_after(1.0))
    with pytest.raises(RuntimeError, match="a task failed") as raised:
        run(main(lambda task: asyncio.sleep(2.0)))
    assert isinstance(raised.value.__cause__, ValueError)
    assert run(main(lambda task: asyncio.gather(task, return_exceptions=True))) == "done"


def test_the_error_of_a_call_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, {}.pop, "missing")
        await asyncio.sleep(2.0)

    with pytest.raises(KeyError, match="missing"):
        run(main())


def test_tasks_that_are_left_are_cancelled_without_a_warning() -> None:
    ended = list[str]()

    async def wait(name: str) -> None:
        try:
            await asyncio.sleep(9.0)
        finally:
            await asyncio.sleep(1.0)
            ended.append(name)

    async def main() -> str:
        asyncio.create_task(wait("began"))  # noqa: RUF006  (nobody is to keep it)
        await asyncio.sleep(1.0)
        asyncio.create_task(wait("has not begun"))  # noqa: RUF006
        return "done"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = VirtualLoop()  # type: ignore[abstract]
        assert loop.run_until_complete(main()) == "done"
        loop.cancel_tasks()
        gc.collect()
    assert (ended, loop.faults, loop.time()) == (["began"], [], 2.0)
    assert not loop.is_running()


def test_threads_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="a virtual loop has no threads"):
            await asyncio.to_thread(print)
        with pytest.raises(RuntimeError, match="a virtual loop has no threads"):
            loop.call_soon_threadsafe(print)
        with pytest.raises(NotImplementedError):
            await asyncio.open_connection("127.0.0.1", 1)

    run(main())


def test_two_runs_are_equal() -> None:
    async def main() -> list[tuple[int, float]]:
        seen = list[tuple[int, float]]()
        lock = asyncio.Lock()

        async def step(number: int) -> None:
            for turn in range(5):
                async with lock:
                    await asyncio.sleep((number * 7 + turn * 3) % 5 / 10)
                seen.append((number, now()))

        await asyncio.gather(*map(step, range(20)))
        return seen

    assert run(main()) == run(main())
