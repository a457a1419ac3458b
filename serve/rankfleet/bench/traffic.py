"""Load over HTTP: request bodies made beforehand, and open and closed loops that send them."""

import asyncio
import itertools
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import aiohttp
import numpy as np
import orjson

from rankfleet.bench.sample_texts import write_request
from rankfleet.router.retry import PATIENCE_S
from rankfleet.simulate.workload import Requests, Workload

REFUSED = (429, 422)  # overloaded; infeasible even for an idle fleet

JSON = {"content-type": "application/json"}
POOL = 400  # documents that requests draw from, each at most once: a document that occurs twice is scored once
TIMEOUT_S = 30.0  # how long a client waits beyond its budget; without one, beyond the patience of the router
SERVER_TOTAL = re.compile(r"total;dur=([0-9.]+)")
SPREAD = 0.5  # lengths of documents lie within this share of the mean


@dataclass(frozen=True)
class Call:
    """One request to send. at_s: seconds from the start; kind: place of its class; budget_ms: None for no budget."""

    at_s: float
    kind: int
    budget_ms: float | None
    body: bytes

    @property
    def timeout_s(self) -> float:
        """How long its client waits."""
        return TIMEOUT_S + (PATIENCE_S if self.budget_ms is None else self.budget_ms / 1e3)


@dataclass(frozen=True)
class Reply:
    """What a call got.

    status: of HTTP, 0 where no answer came; error: why there is no ranking; took_ms: from the moment the call was due,
    so that a late start counts; done_s: by time.perf_counter; server_ms: by the router's clock, until its reply or its
    refusal; the other fields are those of the fleet's reply.
    """

    call: Call
    status: int
    took_ms: float
    tier: str = ""
    quality: float = 0.0
    scored: bool = False
    done_s: float = 0.0
    server_ms: float = math.nan
    error: str = ""
    timing_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def infer_ms(self) -> float:
        return self.timing_ms.get("infer", 0.0)

    @property
    def queue_ms(self) -> float:
        return self.timing_ms.get("queue", 0.0)

    @property
    def in_time(self) -> bool:
        """Whether the answer is scored and came within the budget as the client sees it."""
        budget = self.call.budget_ms
        return self.status == 200 and self.scored and (budget is None or self.took_ms <= budget)


def calls(
    requests: Requests,
    workload: Workload,
    count: Callable[[str], int],
    special: int,
    seed: int,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> list[Call]:
    """A call for each request. count: number of a text's tokens; special: special tokens of a pair; fields: further
    keys of every body."""
    rng = random.Random(seed)
    pool = max(POOL, int(requests.pairs.max(initial=0)))
    spread = [round(workload.tokens * (1 - SPREAD + 2 * SPREAD * (i + 0.5) / pool)) for i in range(pool)]
    rng.shuffle(spread)
    texts = write_request(spread, count, special, seed)
    kinds = list(workload.classes.values())
    made = []
    for at_s, kind, pairs in zip(requests.arrived_s, requests.kind, requests.pairs, strict=True):
        documents = rng.sample(texts.documents, int(pairs))
        budget_ms = kinds[kind].slo_ms
        body = {"query": texts.query, "documents": documents, "top_n": 10, **fields}
        made.append(Call(float(at_s), int(kind), budget_ms, orjson.dumps(body | {"slo_ms": budget_ms})))
    return made


def session(url: str, key: str | None = None) -> aiohttp.ClientSession:
    """An HTTP client without a limit on its connections. key: of the API; None for that of the environment, if any."""
    connector = aiohttp.TCPConnector(limit=0)
    key = key or os.environ.get("RANKFLEET_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return aiohttp.ClientSession(url, connector=connector, headers=headers, trust_env=False)  # never through a proxy


async def send(client: aiohttp.ClientSession, call: Call, due_s: float) -> Reply:
    """Send one call. due_s: when it is due, by time.perf_counter."""
    timeout = aiohttp.ClientTimeout(total=call.timeout_s)
    try:
        async with client.post("/v1/rerank", data=call.body, headers=JSON, timeout=timeout) as response:
            text = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Reply(call, 0, (time.perf_counter() - due_s) * 1e3, error=f"{type(error).__name__}: {error}")
    done_s = time.perf_counter()
    took_ms = (done_s - due_s) * 1e3
    timed = SERVER_TOTAL.search(response.headers.get("Server-Timing", ""))
    server_ms = float(timed[1]) if timed else math.nan
    if response.status != 200:
        said = text[:200].decode(errors="replace")
        return Reply(call, response.status, took_ms, done_s=done_s, server_ms=server_ms, error=said)
    fleet = orjson.loads(text)["rankfleet"]
    scored = bool(fleet["stages"])
    return Reply(
        call, 200, took_ms, fleet["tier"], fleet["quality"], scored, done_s, server_ms, timing_ms=fleet["timing_ms"]
    )


async def open_loop(url: str, planned: Sequence[Call], key: str | None = None) -> list[Reply]:
    """Send every call when it is due, whether or not earlier ones are answered. key: as in `session`."""
    async with session(url, key) as client:
        start_s = time.perf_counter() + 0.05
        tasks = []
        for call in planned:
            due_s = start_s + call.at_s
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(send(client, call, due_s)))
        return list(await asyncio.gather(*tasks))


async def closed_loop(url: str, call: Call | Sequence[Call], concurrency: int, seconds: float) -> list[Reply]:
    """Send calls in turn from `concurrency` clients, each of which sends its next call when its last is answered."""
    replies: list[Reply] = []
    turn = itertools.cycle([call] if isinstance(call, Call) else call)
    async with session(url) as client:
        until_s = time.perf_counter() + seconds

        async def keep_sending() -> None:
            while (now_s := time.perf_counter()) < until_s:
                replies.append(await send(client, next(turn), now_s))

        await asyncio.gather(*(keep_sending() for _ in range(concurrency)))
    return replies


def quantile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.quantile(values, share)), 2) if len(values) else None
