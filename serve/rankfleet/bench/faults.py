"""`rankfleet bench faults`: a fleet under open-loop load while parts of it die, change or are overloaded."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from rankfleet.bench.fault_fleet import BreakableFleet, reserving_more
from rankfleet.bench.fault_traffic import BenchLoad, FaultTraffic
from rankfleet.bench.outcomes import reply_counts
from rankfleet.bench.overload import overload
from rankfleet.bench.traffic import JSON, Call, Reply, open_loop, session

KILL_EVERY_S = 10.0
CANCELLED_SHARE = 0.1


@dataclass(frozen=True)
class Event:
    """An action on the fleet. at_s: seconds after the load begins; do: does it and returns what it did, in words."""

    at_s: float
    do: Callable[[], str]


@dataclass
class Events:
    """Runs actions at their times and records what they did."""

    planned: Sequence[Event]
    done: list[dict[str, Any]] = field(default_factory=list)

    def run(self, wait: Callable[[float], None] = time.sleep) -> None:
        """Run all actions in order; returns after the last."""
        started_s = time.perf_counter()
        for event in self.planned:
            wait(max(0.0, started_s + event.at_s - time.perf_counter()))
            at_s = round(time.perf_counter() - started_s, 1)
            try:
                what = event.do()
            except Exception as error:  # a failed action is recorded and does not end the load
                what = f"could not be done: {type(error).__name__}: {error}"
            self.done.append({"at_s": at_s, "what": what})


class FaultBench:
    """Runs fault scenarios against one fleet, one after the other. The first line of a scenario is what results and
    their tables say of it."""

    def __init__(self, fleet: BreakableFleet, traffic: FaultTraffic, progress: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._traffic = traffic
        self._progress = progress

    def run(self, name: str, load: BenchLoad) -> dict[str, Any]:
        """Run a scenario of SCENARIOS. `what` in the result says what happened in it."""
        scenario = SCENARIOS[name]
        return {"what": scenario.__doc__, **scenario(self, load)}

    def calm(self, load: BenchLoad) -> dict[str, Any]:
        """nothing happens"""
        return self._under(load, ())

    def kill(self, load: BenchLoad) -> dict[str, Any]:
        """a replica is killed every ten seconds, every third a router"""
        names = [*self._fleet.config.groups] * 2 + ["router"]
        times = np.arange(KILL_EVERY_S / 2, load.seconds, KILL_EVERY_S)
        return self._under(load, [Event(t, self._killing(names[i % len(names)])) for i, t in enumerate(times)])

    def _killing(self, deployment: str) -> Callable[[], str]:
        return lambda: self._fleet.kill(deployment)

    def hang(self, load: BenchLoad) -> dict[str, Any]:
        """a replica of a group is stopped, as if its network were gone"""
        name = next(iter(self._fleet.config.groups))
        return self._under(
            load,
            [Event(load.seconds / 6, lambda: self._fleet.hang(name)), Event(load.seconds * 0.9, self._fleet.release)],
        )

    def node(self, load: BenchLoad) -> dict[str, Any]:
        """a node is removed without notice; later another is added"""
        return self._under(
            load, [Event(load.seconds / 4, self._fleet.remove_node), Event(load.seconds * 0.6, self._fleet.add_node)]
        )

    def redeploy(self, load: BenchLoad) -> dict[str, Any]:
        """the fleet file reserves more CPU for every process, so that all are replaced"""
        changed = reserving_more(self._fleet.config)
        return self._under(load, [Event(load.seconds / 6, lambda: self._fleet.deploy(changed))])

    def cancel(self, load: BenchLoad) -> dict[str, Any]:
        """a tenth of the clients disconnect before they have their answer"""
        rng = random.Random(load.seed)
        planned = self._planned(load)
        stay = [rng.random() >= CANCELLED_SHARE for _ in planned]
        leave = [call for call, stays in zip(planned, stay, strict=True) if not stays]
        after_s = [rng.uniform(0.002, 0.1) for _ in leave]

        async def both() -> list[Reply]:
            leaving = asyncio.create_task(send_and_disconnect(self._fleet.url, leave, after_s))
            replies = await open_loop(self._fleet.url, [c for c, s in zip(planned, stay, strict=True) if s])
            await leaving
            return replies

        self._progress(f"sending {len(planned)} requests; {len(leave)} clients disconnect")
        return reply_counts(asyncio.run(both())) | load.proportions | {"cancelled": len(leave)}

    def overload(self, load: BenchLoad) -> dict[str, Any]:
        """five times the peak of goodput"""
        return overload(self._traffic, next(iter(self._fleet.config.tiers)), load.seconds, load.seed, self._progress)

    def _planned(self, load: BenchLoad) -> list[Call]:
        return self._traffic.planned(load.workload, load.rate_per_s, load.seconds, load.seed)

    def _under(self, load: BenchLoad, events: Sequence[Event]) -> dict[str, Any]:
        """Counts of the replies to a mixed load, while the actions run."""
        planned = self._planned(load)
        self._progress(f"sending {len(planned)} requests over {load.seconds:g} s")
        happening = Events(events)
        with ThreadPoolExecutor(1) as pool:  # Ray starts nodes from the main thread, so the load has another
            sent = pool.submit(self._traffic.send, planned)
            happening.run()
            replies = sent.result()
        return reply_counts(replies) | load.proportions | ({"events": happening.done} if events else {})


SCENARIOS: dict[str, Callable[[FaultBench, BenchLoad], dict[str, Any]]] = {
    "calm": FaultBench.calm,
    "kill": FaultBench.kill,
    "hang": FaultBench.hang,
    "node": FaultBench.node,
    "redeploy": FaultBench.redeploy,
    "cancel": FaultBench.cancel,
    "overload": FaultBench.overload,
}


async def send_and_disconnect(url: str, planned: Sequence[Call], after_s: Sequence[float]) -> None:
    """Send each call when it is due, and close its connection after the given seconds."""
    start_s = time.perf_counter() + 0.05

    async def leave(client: aiohttp.ClientSession, call: Call, seconds: float) -> None:
        await asyncio.sleep(max(0.0, start_s + call.at_s - time.perf_counter()))
        try:
            async with asyncio.timeout(seconds):
                async with client.post("/v1/rerank", data=call.body, headers=JSON) as response:
                    await response.read()
        except (TimeoutError, aiohttp.ClientError):
            pass

    async with session(url) as client:
        await asyncio.gather(*(leave(client, c, s) for c, s in zip(planned, after_s, strict=True)))
