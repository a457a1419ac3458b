"""Hostile requests to a running fleet with keys: each gets an answer, and another tenant is not disturbed.

`make check` sends each once, `make fuzz` (FUZZ_FACTOR) more, to both doors: HAProxy, and the router behind it.
"""

import contextlib
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import yaml
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from rankfleet.api.keys import line_of, new_key
from tests.check import hostile
from tests.check.conftest import ROOT
from tests.fuzzing import FACTOR, fuzzed
from tests.integration.test_doors import doors
from tests.serving import READY, Serving, descendants, serving

ALONE_S = 8.0
ROUNDS = min(FACTOR, 5)
CASES = 300 if FACTOR == 1 else 5000
IDLE = 1000 if FACTOR == 1 else 1800  # connections that say nothing; HAProxy takes 2,048
MAX_GROWTH_MB = 150  # of a process; a leak of what the attacks send would be gigabytes
MAX_DRIFT = 4.0  # of what an idle fleet is predicted to take, on a computer that does other things, too
checks.load_all_checks()
PROMISES = [
    checks.not_a_server_error,
    *checks.CHECKS.get_by_names(
        [
            *("status_code_conformance", "content_type_conformance"),
            *("response_headers_conformance", "response_schema_conformance"),
        ]
    ),
]


@dataclass
class Honest:
    """A tenant that asks all the time, and looks at what it gets."""

    url: str
    key: str
    met: list[bool] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def ask(self, http: httpx.Client) -> None:
        body = {"query": hostile.QUERY, "documents": ["Rain is expected.", hostile.RIGHT, "Stocks fell."]}
        name = f"honest-{len(self.met)}"
        options = {"slo_class": "relaxed", "candidates": "unordered"}
        reply = http.post("/v1/rerank", json=body | options, headers={"x-request-id": name})
        told = reply.json()
        if reply.status_code != 200 or told["id"] != name or len(told["results"]) != 3:
            self.wrong.append(f"{name}: {reply.status_code} {reply.text[:500]}")
        self.met.append(bool(told.get("rankfleet", {}).get("stages") and told["rankfleet"]["slo"]["met"]))

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        over = threading.Event()

        def ask() -> None:
            headers = {"authorization": f"Bearer {self.key}"}
            with httpx.Client(base_url=self.url, timeout=60, trust_env=False, headers=headers) as http:
                while not over.is_set():
                    try:
                        self.ask(http)
                    except (httpx.HTTPError, ValueError, KeyError) as error:
                        self.met.append(False)
                        self.wrong.append(repr(error))
                    time.sleep(0.05)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass
class Target:
    """The fleet under attack. head: of requests with the attacker's key. honest: the key of another tenant."""

    running: Serving
    head: hostile.Head
    honest: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}"

    def get(self, path: str) -> Any:
        reply = httpx.get(self.url + path, headers={"x-api-key": self.honest}, timeout=60, trust_env=False)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def addresses(self) -> list[tuple[str, int]]:
        """Of HAProxy, and of the router."""
        pids = descendants(self.running.process.pid)
        behind = {
            door.port
            for door in doors(pids)
            if door.process.startswith("ray::ServeReplica:rankfleet:router") and door.address == "127.0.0.1"
        }
        assert behind
        return [("127.0.0.1", port) for port in (self.running.port, *behind)]

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of each process that serves."""
        found = {}
        for pid in descendants(self.running.process.pid):
            with contextlib.suppress(OSError):  # it may end meanwhile
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode().partition("\0")[0]
                resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                # While Ray calls a method, its name stands in the title, behind a dot; otherwise zeros do.
                name = title.partition(".")[0] if title.startswith("ray::ServeReplica") else ""
                name = "haproxy" if "haproxy" in title else name
                if resident and name:
                    found[f"{name} {pid}"] = int(resident[1]) / 1024
        return found

    def idle_ms(self) -> dict[str, float]:
        """By tier, what the router predicts for an idle fleet."""
        fleet = self.get("/v1/fleet")
        assert all(math.isfinite(group["backlog_s"]) for group in fleet["groups"])
        return {tier["name"]: float(tier["idle_ms"]) for tier in fleet["tiers"]}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The demo fleet with two tenants, each with half of it, and one replica whose memory can be followed."""
    folder = tmp_path_factory.mktemp("fuzz")
    keys = {tenant: new_key() for tenant in ("honest", "hostile")}
    (folder / "keys.txt").write_text("".join(f"{line_of(key, tenant)}\n" for tenant, key in keys.items()))
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    demo["groups"]["demo"]["replicas"] = {"min": 1, "max": 1}
    (folder / "fleet.yaml").write_text(yaml.safe_dump(demo | {"keys": "keys.txt"}, sort_keys=False))
    with serving(folder / "fleet.yaml", folder / "output.txt") as running:
        assert READY in running.wait_for(READY), running.output.read_text()
        yield Target(running, hostile.Head(keys["hostile"]), keys["honest"])


@contextlib.contextmanager
def undisturbed(target: Target) -> Iterator[None]:
    """Fails unless, whatever happens meanwhile, another tenant keeps its budgets, memory is flat, estimates are sane,
    and the fleet is well afterwards."""
    alone, beside = Honest(target.url, target.honest), Honest(target.url, target.honest)
    with alone.asking():
        time.sleep(ALONE_S)
    memory, idle_ms = target.memory_mb(), target.idle_ms()
    with beside.asking():
        yield
    before, after = (sum(each.met) / len(each.met) for each in (alone, beside))
    assert len(beside.met) > 20
    assert after >= before - 0.1, f"{before:.0%} of budgets are met alone, {after:.0%} beside the attacks"
    assert beside.wrong == []
    grown = {name: mb - memory[name] for name, mb in target.memory_mb().items() if name in memory}
    assert max(grown.values()) < MAX_GROWTH_MB, f"memory is not flat: {grown}"
    assert {name for name in memory if "haproxy" not in name} <= grown.keys(), "a process has died"
    for tier, ms in target.idle_ms().items():
        assert idle_ms[tier] / MAX_DRIFT < ms < idle_ms[tier] * MAX_DRIFT, (
            f"{tier}: {idle_ms[tier]} ms before, {ms} now"
        )
    assert target.get("/readyz") == {"status": "ready"}


def attack(target: Target, attacks: Callable[[hostile.Head], Iterator[hostile.Attack]]) -> list[tuple[int, bytes]]:
    """Every attack, to both doors. Returns the replies. Fails for one that may not be."""
    found, wrong = [], []
    for address in target.addresses():
        for each in attacks(target.head):
            replies = hostile.send(address, each)
            found += replies
            many = each.most is not None and len(replies) > each.most
            if many or len(replies) < each.least or not {status for status, _ in replies} <= {*each.allowed}:
                wrong.append((address[1], each.name, replies[:3]))
    assert wrong == []
    return found


@contextlib.contextmanager
def loiterers(target: Target) -> Iterator[None]:
    """Connections that say nothing, that send slowly, and that read slowly."""
    document = "rain " * 100_000
    large = b'{"query": "a", "return_documents": true, "slo_ms": 60000, "documents": ["%s"]}' % document.encode()
    with contextlib.ExitStack() as opened:
        for number in range(IDLE):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", target.running.port), timeout=30))
            if number % 50 == 0:
                connection.sendall(target.head.post(b"{", length=50_000_000))
            elif number % 50 == 1:
                connection.sendall(target.head.post(large))
        yield


def test_wrong_values_in_every_field_of_every_format(target: Target) -> None:
    with undisturbed(target):
        for _ in range(ROUNDS):
            attack(target, hostile.wrong_types)


def test_http_that_is_wrong_or_could_be_read_in_two_ways(target: Target) -> None:
    with undisturbed(target):
        for _ in range(ROUNDS):
            attack(target, hostile.protocol)


def test_bodies_that_are_hostile_beside_connections_that_loiter(target: Target) -> None:
    with undisturbed(target), loiterers(target):
        for _ in range(3 * ROUNDS):
            attack(target, hostile.bodies)


def test_the_openapi_page_is_kept(target: Target) -> None:
    """Whatever is generated from the page gets what the page says: statuses, content types, headers, schemas."""
    page = schemathesis.openapi.from_dict(target.get("/openapi.json"))
    operations = [found.ok() for found in page.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = st.one_of(*[one.as_strategy(generation_mode=mode) for one in operations for mode in modes])
    headers, seen = {"x-api-key": target.head.key}, set[int]()

    @fuzzed(CASES // FACTOR)
    @given(cases)
    def ask(case: schemathesis.Case) -> None:
        reply = case.call(base_url=target.url, headers=headers, timeout=60)
        seen.add(reply.status_code)
        if reply.status_code == 400 and "text/html" in reply.headers.get("content-type", [""])[0]:
            return  # by HAProxy: a header or a path that is no HTTP
        case.validate_response(reply, checks=PROMISES)

    with undisturbed(target):
        ask()
    assert {200, 422} <= seen


def test_bodies_that_take_long_to_parse_are_limited_by_their_tenants_share(target: Target) -> None:
    over = time.monotonic() + (20 if FACTOR == 1 else 120)
    found: list[tuple[int, bytes]] = []
    with undisturbed(target):
        while time.monotonic() < over:
            found += attack(target, hostile.heavy)
    assert any(status == 429 and b"block the router for longer" in body for status, body in found)
