"""One fleet for all integration tests, started the way a user starts it: `rankfleet serve`, ended by Ctrl-C."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_S = 180
STOP_S = 30
RANKFLEET = Path(sys.executable).parent / "rankfleet"

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningFleet:
    """A fleet behind an HTTP client. config: the file it runs from."""

    http: httpx.Client
    config: Path
    process: "subprocess.Popen[str]"
    output: Path

    def rerank(self, query: str, documents: list[str], **fields: object) -> httpx.Response:
        return self.http.post("/v1/rerank", json={"query": query, "documents": documents} | fields)

    def command(self, *arguments: str) -> str:
        done = subprocess.run([RANKFLEET, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """What a command says that does not succeed."""
        done = subprocess.run([RANKFLEET, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stdout
        return done.stderr


def descendants(pid: int) -> set[int]:
    """Process ids below `pid`."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            found = re.search(r"^PPid:\s+(\d+)", status.read_text(), re.MULTILINE)
        except OSError:  # it has ended meanwhile
            continue
        if found:
            children.setdefault(int(found[1]), []).append(int(status.parent.name))
    seen: set[int] = set()
    front = [pid]
    while front:
        front = [child for parent in front for child in children.get(parent, []) if child not in seen]
        seen |= set(front)
    return seen


@pytest.fixture(scope="session")
def running_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    config, output = folder / "fleet.yaml", folder / "output.txt"
    config.write_text(FLEET)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"p{i}", "text": text}) + "\n" for i, text in enumerate(PASSAGES)))
    subprocess.run([RANKFLEET, "index", "build", str(corpus), "--out", str(folder / "index")], check=True)
    port = free_port()
    with output.open("w") as sink:
        process = subprocess.Popen(
            [RANKFLEET, "serve", "--config", str(config), "--port", str(port)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_S
    while "Ctrl-C stops it" not in output.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the fleet did not start:\n{output.read_text()}")
        time.sleep(0.2)
    below = descendants(process.pid)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        yield RunningFleet(http, config, process, output)

    below |= descendants(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP_S) == 0, output.read_text()
    assert "stopped" in output.read_text()
    left = below
    until = time.monotonic() + STOP_S
    while left and time.monotonic() < until:
        left = {pid for pid in left if _runs(pid)}
        time.sleep(0.1)
    assert not left, f"left running after Ctrl-C: {left}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
