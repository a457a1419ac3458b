"""The fleet that the integration tests share, and what they ask of it."""

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.serving import RANKFLEET, Serving, descendants

FleetFile = dict[str, Any]
TIMEOUT_S = 90

# The demo fleet with a quick autoscaler, so that a test sees it grow and shrink.
FLEET = """
tiers:
  small: {model: demo/small, quality: 0.3}
  medium: {model: demo/medium, quality: 0.4}
  large: {model: demo/large, quality: 0.5}
groups:
  demo: {tiers: [small, medium, large], replicas: {min: 1, max: 2}, cpus: 0.5}
autoscaling: {stable_s: 4, panic_s: 3, panic_hold_s: 4, downscale_window_s: 4, cooldown_s: 2}
router_cpus: 0.5
slo_classes:
  interactive: {slo_ms: 200, when_none_fits: refuse}
  relaxed: {slo_ms: 20000}
search: {index: index, top_k: 5}
experiments:
  size:
    arms:
      small: {model: small, weight: 50}
      large: {model: large, weight: 50}
"""

PASSAGES = [
    "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
    "The immune system is a network of cells that defends the body.",
    "Some diseases of plants are caused by fungi.",
    "The stock market closed higher on Friday after strong earnings.",
    "Heavy rain is expected in the north of the country this weekend.",
]
QUERY = "How do vaccines protect against disease?"
RIGHT = PASSAGES[0]
DOCUMENTS = [PASSAGES[3], RIGHT, PASSAGES[4]]


class Replicas(NamedTuple):
    """Process ids of the running replicas, by deployment."""

    router: set[int]
    demo: set[int]


@dataclass
class RunningFleet:
    """A fleet that runs from the file `config`, behind an HTTP client."""

    http: httpx.Client
    config: Path
    serving: Serving

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    def rerank(self, query: str, documents: list[str], **fields: object) -> httpx.Response:
        return self.http.post("/v1/rerank", json={"query": query, "documents": documents} | fields)

    def scaling(self) -> dict[str, Any]:
        """What Serve's controller says of the demo group."""
        (group,) = self.http.get("/v1/fleet").json()["groups"]
        return group["scaling"]

    def models(self) -> dict[str, str]:
        """The model of each name that a request can ask for; empty for names that are no tier."""
        return {model["id"]: model.get("model", "") for model in self.http.get("/v1/models").json()["data"]}

    def apply(self, change: Callable[[FleetFile], object] | None = None) -> None:
        """`rankfleet apply` of the fleet's file with `change` made to it; without a change, of the file as it is."""
        run_rankfleet("apply", self.changed_file(change) if change else self.config, "--port", str(self.serving.port))

    def refused_apply(self, change: Callable[[FleetFile], object]) -> str:
        """The error message of an `apply` that fails."""
        return run_rankfleet("apply", self.changed_file(change), "--port", str(self.serving.port), status=1)

    def changed_file(self, change: Callable[[FleetFile], object]) -> Path:
        settings = yaml.safe_load(self.config.read_text())
        change(settings)
        file = self.config.with_name("changed.yaml")
        file.write_text(yaml.safe_dump(settings, sort_keys=False))  # the order of tiers and arms matters
        return file

    def replicas(self) -> Replicas:
        """The replicas that run now; at least one router, since a fleet without one would prove nothing."""
        found: dict[str, set[int]] = {name: set() for name in Replicas._fields}
        for pid in descendants(self.serving.process.pid):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            except OSError:  # it has ended meanwhile
                continue
            for name, pids in found.items():
                if title.startswith(f"ray::ServeReplica:rankfleet:{name}"):
                    pids.add(pid)
        assert found["router"], "no process looks like a router replica"
        return Replicas(found["router"], found["demo"])

    def wait_for_replicas(self, count: int) -> Replicas:
        """The replicas, once the demo group has `count`."""
        replicas = Replicas(set(), set())

        def settled() -> bool:
            nonlocal replicas
            replicas = self.replicas()
            return len(replicas.demo) == count

        wait_for(settled, f"the demo group has {count} replicas")
        return replicas

    def metrics(self) -> str:
        """The metrics at the address that the fleet printed when it started."""
        found = re.search(r"http://\S+/metrics", self.serving.output.read_text())
        assert found
        return httpx.get(found[0], timeout=10, trust_env=False).text


def run_rankfleet(*arguments: str | Path, status: int = 0) -> str:
    """Run a `rankfleet` command that has to end with `status`, and return what it wrote to standard error."""
    done = subprocess.run([RANKFLEET, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr


def wait_for(condition: Callable[[], bool], what: str, seen: Callable[[], object] = str) -> None:
    """Return once `condition` holds; `what` is the condition in words, and `seen` what was there, for the failure."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not true within {TIMEOUT_S} s: {what} {seen()}"
        time.sleep(0.2)


class Load:
    """Clients that ask without pause while the block runs: any tier, a tier by name, as a user of an experiment."""

    def __init__(self, url: str, models: tuple[str, ...] = ("small", "large")) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._url = url
        self._over = threading.Event()
        variants: list[dict[str, Any]] = [{}, *({"model": model} for model in models), {"user": "u"}]
        self._clients = [threading.Thread(target=self._ask, args=(fields,)) for fields in variants]

    def _ask(self, fields: dict[str, Any]) -> None:
        body = {"query": QUERY, "documents": DOCUMENTS, "slo_ms": 5000} | fields
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as http:
            while not self._over.is_set():
                try:
                    reply = http.post("/v1/rerank", json=body)
                    if reply.status_code != 200 or not reply.json()["rankfleet"]["stages"]:
                        self.failed.append(f"{fields}: {reply.status_code} {reply.text[:300]}")
                except httpx.HTTPError as error:
                    self.failed.append(f"{fields}: {error!r}")
                self.answered += 1
                time.sleep(0.03)

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()
