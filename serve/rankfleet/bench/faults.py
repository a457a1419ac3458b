"""`rankfleet bench faults`: a fleet under open-loop load while parts of it die, change or are overloaded."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import numpy as np

from rankfleet.bench.serve import token_counter
from rankfleet.bench.traffic import JSON, REFUSED, Call, Reply, calls, closed_loop, open_loop, quantile, session
from rankfleet.core.config import FleetConfig, parse_config, read_config
from rankfleet.simulate.traces import from_process
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload, draw

DEMO = Path(__file__).parents[1] / "configs/demo.yaml"
# Short budgets, long ones and none: faults affect each of them differently.
MIXED = Workload(
    classes={
        "standard": RequestClass(slo_ms=2000, share=5),
        "relaxed": RequestClass(slo_ms=10000, share=3),
        "batch": RequestClass(slo_ms=None, share=2),
    },
    candidates=[Candidates(count=20, share=8), Candidates(count=200, share=2)],
    tokens=32,
)
# Large enough that the engines are the bottleneck, not the load generator.
HEAVY = Workload(
    classes={"tight": RequestClass(slo_ms=500, share=1)}, candidates=[Candidates(count=100, share=1)], tokens=64
)
STRICT = "strict"  # the SLO class that refuses infeasible requests
KILL_EVERY_S = 10.0
CANCELLED_SHARE = 0.1
OVERLOAD = 5.0
CALM = 0.5  # share of the peak: the load before and after the overload
CLIENTS = 8  # of the closed loop that estimates the capacity
STEPS = (0.7, 0.85, 1.0, 1.2, 1.4)  # multiples of that capacity at which the peak of goodput is searched
TOLERANCE = 1.5  # latencies up to this multiple of the calm p99 count as normal


class BreakableFleet(Protocol):
    """A fleet that can be broken, such as `rankfleet.bench.local_cluster.LocalCluster`."""

    url: str
    config: FleetConfig

    def kill(self, deployment: str) -> str: ...
    def hang(self, deployment: str) -> str: ...
    def release(self) -> str: ...
    def remove_node(self) -> str: ...
    def add_node(self) -> str: ...
    def deploy(self, config: FleetConfig) -> str: ...
    def settle(self) -> None: ...
    def processes(self) -> dict[str, list[int]]: ...


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


@dataclass(frozen=True)
class BenchLoad:
    """Random arrivals. rate_per_s: requests per second; seconds: how long they are sent."""

    rate_per_s: float
    seconds: float
    seed: int = 1


class FaultBench:
    """Runs fault scenarios against one fleet, one after the other."""

    def __init__(self, fleet: BreakableFleet, progress: Callable[[str], None] = lambda text: None) -> None:
        self._fleet = fleet
        self._progress = progress
        self._counter = token_counter(fleet.config)

    def calm(self, load: BenchLoad) -> dict[str, Any]:
        """Nothing happens: the baseline of the other scenarios."""
        return self._under(load, ())

    def kill(self, load: BenchLoad) -> dict[str, Any]:
        """A replica is killed every ten seconds: two of a group, then a router."""
        names = [*self._fleet.config.groups] * 2 + ["router"]
        times = np.arange(KILL_EVERY_S / 2, load.seconds, KILL_EVERY_S)
        return self._under(load, [Event(t, self._killing(names[i % len(names)])) for i, t in enumerate(times)])

    def _killing(self, deployment: str) -> Callable[[], str]:
        return lambda: self._fleet.kill(deployment)

    def hang(self, load: BenchLoad) -> dict[str, Any]:
        """A replica of a group is stopped, as if its network were gone."""
        name = next(iter(self._fleet.config.groups))
        return self._under(
            load,
            [Event(load.seconds / 6, lambda: self._fleet.hang(name)), Event(load.seconds * 0.9, self._fleet.release)],
        )

    def node(self, load: BenchLoad) -> dict[str, Any]:
        """A node is removed without notice; later another is added."""
        return self._under(
            load, [Event(load.seconds / 4, self._fleet.remove_node), Event(load.seconds * 0.6, self._fleet.add_node)]
        )

    def redeploy(self, load: BenchLoad) -> dict[str, Any]:
        """The fleet file changes so that every replica has to be replaced."""
        config = self._fleet.config
        changed = parse_config(config.model_dump(mode="json") | {"overhead_ms": config.overhead_ms + 1})
        return self._under(load, [Event(load.seconds / 6, lambda: self._fleet.deploy(changed))])

    def cancel(self, load: BenchLoad) -> dict[str, Any]:
        """A tenth of the clients disconnect before they have their answer."""
        rng = random.Random(load.seed)
        planned = self.planned(MIXED, load)
        stay = [rng.random() >= CANCELLED_SHARE for _ in planned]
        leave = [call for call, stays in zip(planned, stay, strict=True) if not stays]
        after_s = [rng.uniform(0.002, 0.1) for _ in leave]

        async def both() -> list[Reply]:
            leaving = asyncio.create_task(send_and_disconnect(self._fleet.url, leave, after_s))
            replies = await open_loop(self._fleet.url, [c for c, s in zip(planned, stay, strict=True) if s])
            await leaving
            return replies

        self._progress(f"sending {len(planned)} requests; {len(leave)} clients disconnect")
        return reply_counts(asyncio.run(both())) | {"cancelled": len(leave)}

    def overload(self, load: BenchLoad) -> dict[str, Any]:
        """Five times the peak of goodput, after the peak and the calm latency have been measured."""
        seconds = max(5.0, load.seconds / 6)
        self._progress("searching the peak of goodput")
        one = self.planned(HEAVY, BenchLoad(20.0, 1.0))[0]
        closed = asyncio.run(closed_loop(self._fleet.url, one, CLIENTS, seconds))
        rate = sum(reply.in_time for reply in closed) / seconds
        steps = {}
        for step in STEPS:
            replies = self._send(self.planned(HEAVY, BenchLoad(rate * step, seconds, load.seed)))
            steps[round(rate * step, 2)] = round(goodput(replies, seconds), 2)
        peak = max(steps.values())
        before = self._send(self.planned(HEAVY, BenchLoad(peak * CALM, seconds, load.seed)))
        much = self.planned(HEAVY, BenchLoad(peak * OVERLOAD, load.seconds / 3, load.seed))
        after = self.planned(HEAVY, BenchLoad(peak * CALM, max(10.0, seconds), load.seed + 1))
        late = [replace(call, at_s=call.at_s + load.seconds / 3) for call in after]
        self._progress(f"overload: {len(much)} requests")
        replies = self._send([*much, *late])
        during, following = replies[: len(much)], replies[len(much) :]
        normal_ms = quantile([r.took_ms for r in before if r.status == 200], 0.99) or 0.0
        refusals = [r.took_ms for r in during if r.status in REFUSED]
        good = goodput(during, load.seconds / 3)
        return reply_counts(during) | {
            "closed_loop_per_s": round(rate, 2),
            "goodput_by_rate_per_s": steps,
            "peak_goodput_per_s": peak,
            "goodput_per_s": round(good, 2),
            "goodput_share": round(good / peak, 3) if peak else None,
            "refused_p50_ms": quantile(refusals, 0.5),
            "refused_p90_ms": quantile(refusals, 0.9),
            "refused_p99_ms": quantile(refusals, 0.99),
            "calm_p99_ms": normal_ms,
            "after": reply_counts(following),
            "normal_again_s": normal_again_s(following, load.seconds / 3, normal_ms * TOLERANCE),
        }

    def planned(self, workload: Workload, load: BenchLoad) -> list[Call]:
        """Calls with random arrivals, classes and sizes, the same for the same seed."""
        rng = np.random.default_rng(load.seed)
        arrived_s = from_process(f"poisson:rate={load.rate_per_s:g}", load.seconds, rng)
        requests: Requests = draw(workload, arrived_s, rng)
        fields = {"slo_class": STRICT} if workload is HEAVY else {}
        return calls(requests, workload, *self._counter, load.seed, fields)

    def _send(self, planned: Sequence[Call]) -> list[Reply]:
        return asyncio.run(open_loop(self._fleet.url, planned))

    def _under(self, load: BenchLoad, events: Sequence[Event]) -> dict[str, Any]:
        """Counts of the replies to a mixed load, while the actions run."""
        planned = self.planned(MIXED, load)
        self._progress(f"sending {len(planned)} requests over {load.seconds:g} s")
        happening = Events(events)
        with ThreadPoolExecutor(1) as pool:  # Ray starts nodes from the main thread, so the load has another
            sent = pool.submit(self._send, planned)
            happening.run()
            replies = sent.result()
        return reply_counts(replies) | {"rate_per_s": load.rate_per_s} | ({"events": happening.done} if events else {})


SCENARIOS: dict[str, Callable[[FaultBench, BenchLoad], dict[str, Any]]] = {
    "calm": FaultBench.calm,
    "kill": FaultBench.kill,
    "hang": FaultBench.hang,
    "node": FaultBench.node,
    "redeploy": FaultBench.redeploy,
    "cancel": FaultBench.cancel,
    "overload": FaultBench.overload,
}


def fault_test_fleet(profile: str | None) -> FleetConfig:
    """The demo tiers on three replicas, with two routers, so that one of each may die. profile: file of this device."""
    return parse_config(
        {
            "tiers": demo_tiers(),
            "groups": {
                "demo": {
                    "tiers": ["small", "medium", "large"],
                    "replicas": {"min": 3, "max": 3},
                    "cpus": 0.5,
                    "gpus": 0.25,
                }
            },
            "routers": 2,
            "profile": profile,
            "slo_classes": {STRICT: {"slo_ms": None, "when_none_fits": "refuse"}},
        }
    )


def demo_tiers() -> dict[str, Any]:
    """The tiers of the shipped demo fleet, as a fleet file has them."""
    tiers: dict[str, Any] = read_config(DEMO).model_dump(mode="json")["tiers"]
    return tiers


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


def reply_counts(replies: Sequence[Reply]) -> dict[str, Any]:
    """What became of the requests.

    failed: neither answered nor refused; late: answered after the budget as the client sees it; unscored: answered in
    the order given, since the time ran out.
    """
    answered = [r for r in replies if r.status == 200]
    failed = [r for r in replies if r.status not in (200, *REFUSED)]
    figures: dict[str, Any] = {
        "requests": len(replies),
        "ok": len(answered),
        "refused": sum(r.status in REFUSED for r in replies),
        "failed": len(failed),
        "late": sum(r.scored and not r.in_time for r in answered),
        "unscored": sum(not r.scored for r in answered),
        "p50_ms": quantile([r.took_ms for r in answered], 0.5),
        "p99_ms": quantile([r.took_ms for r in answered], 0.99),
    }
    if failed:
        statuses = sorted({r.status for r in failed})
        figures["failed_by_status"] = {str(s): sum(r.status == s for r in failed) for s in statuses}
        figures["failures"] = [f"at {r.call.at_s:.1f} s, {r.took_ms:.0f} ms: {r.error}" for r in failed[:10]]
    return figures


def goodput(replies: Sequence[Reply], seconds: float) -> float:
    """Answers in time, per second."""
    return sum(r.in_time for r in replies) / seconds


def normal_again_s(replies: Sequence[Reply], from_s: float, max_ms: float) -> float | None:
    """Seconds from `from_s` until every further request is answered within `max_ms`; None if the last one is not."""
    slow = [r.call.at_s for r in replies if r.status != 200 or r.took_ms > max_ms]
    if not slow:
        return 0.0
    last = max(slow)
    return None if last >= max(r.call.at_s for r in replies) else round(last - from_s, 2)
