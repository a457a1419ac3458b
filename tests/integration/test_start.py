"""Starting a fleet where the environment is in the way, and starts that fail. Three starts."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankfleet.engine.checkpoint.files import MODELS
from tests.integration.conftest import RANKFLEET, START_S, STOP_S, descendants, free_port

FLEET = """
tiers: {small: {model: MODEL, quality: 0.3}}
groups: {demo: {tiers: [small], cpus: 0.5}}
slo_classes: {relaxed: {slo_ms: 20000}}
"""
NOWHERE = "http://127.0.0.1:9"  # a proxy that is not there
SOMEBODY = 54321  # a user id that nobody has


@dataclass
class Start:
    """`rankfleet serve`, its output in a file. below: every process seen under it."""

    process: "subprocess.Popen[bytes]"
    output: Path
    port: int
    below: set[int] = field(default_factory=set)

    def wait_for(self, text: str) -> str:
        """What it has written, once that contains `text` or it has ended."""
        until = time.monotonic() + START_S
        while text not in self.output.read_text() and self.process.poll() is None and time.monotonic() < until:
            self.below |= descendants(self.process.pid)
            time.sleep(0.1)
        return self.output.read_text()

    def left(self) -> set[int]:
        """Its processes that still run some time after its end."""
        until = time.monotonic() + STOP_S
        while (left := {pid for pid in self.below if runs(pid)}) and time.monotonic() < until:
            time.sleep(0.1)
        return left


def runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextlib.contextmanager
def serve(folder: Path, model: str, before: tuple[str, ...] = (), **environment: str) -> Iterator[Start]:
    """before: a command that runs the rest of its line."""
    config, output, port = folder / "fleet.yaml", folder / "output.txt", free_port()
    config.write_text(FLEET.replace("MODEL", model))
    with output.open("w") as sink:
        process = subprocess.Popen(
            [*before, RANKFLEET, "serve", "--config", str(config), "--port", str(port)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    start = Start(process, output, port)
    try:
        yield start
    finally:
        if process.poll() is None:
            start.below |= descendants(process.pid)
            process.send_signal(signal.SIGINT)
        process.wait(STOP_S)
    assert not start.left()


def rank(start: Start) -> dict:
    with httpx.Client(base_url=f"http://127.0.0.1:{start.port}", timeout=30, trust_env=False) as http:
        return http.post("/v1/rerank", json={"query": "cat", "documents": ["a cat", "rain"], "slo_ms": 5000}).json()


def test_neither_a_proxy_nor_a_useless_home_is_in_the_way(tmp_path: Path) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), NOWHERE)
    with serve(tmp_path, "demo/small", HOME="/dev/null", NO_PROXY="localhost,127.0.0.1", **proxies) as start:
        shown = start.wait_for("Ctrl-C stops it")
        assert "Ctrl-C stops it" in shown
        assert re.search(r"^ +\d+\.\d s  starting Ray$", shown, re.MULTILINE)
        assert re.search(r"^ +\d+\.\d s  waiting for .*demo", shown, re.MULTILINE)
        reply = rank(start)
        assert reply["model"] == "small"
        assert reply["rankfleet"]["slo"]["degraded"] is False

        # A second one at the same place says so, and ends before it starts anything.
        again = [RANKFLEET, "serve", "--config", "demo", "--port", str(start.port)]
        refused = subprocess.run(again, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1
        assert f"error: 127.0.0.1:{start.port} is in use" in refused.stderr

        # Who has a home finds the fleet too, though its token lies elsewhere.
        changed = tmp_path / "changed.yaml"
        changed.write_text(FLEET.replace("MODEL", "demo/small").replace("20000", "10000"))
        apply = [RANKFLEET, "apply", str(changed), "--port", str(start.port)]
        done = subprocess.run(apply, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_another_user_starts_a_fleet_where_somebody_has_been_before(tmp_path: Path) -> None:
    keep = "dac_read_search"  # to read this checkout, wherever it lies; writing is as for anybody
    become = ("setpriv", "--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups")
    become += (f"--inh-caps=-all,+{keep}", f"--ambient-caps=-all,+{keep}", f"--bounding-set=-all,+{keep}")
    if os.getuid() or not shutil.which("setpriv") or subprocess.run([*become, "true"], capture_output=True).returncode:
        pytest.skip("needs root and setpriv")
    first = Path("/tmp/haproxy-serve")  # Serve's choice, which the first user leaves behind
    first.mkdir(exist_ok=True)
    home = Path("/tmp") / f"rankfleet-home-{SOMEBODY}"  # pytest's own folders are closed to others
    home.mkdir(exist_ok=True)
    shutil.chown(home, SOMEBODY, SOMEBODY)
    cache = Path(os.environ.get("RANKFLEET_CACHE") or Path.home() / ".cache" / "rankfleet")  # kernels are there
    try:
        with serve(tmp_path, "demo/small", become, HOME=str(home), RANKFLEET_CACHE=str(cache)) as start:
            assert "Ctrl-C stops it" in start.wait_for("Ctrl-C ends it")
            assert rank(start)["model"] == "small"
    finally:
        shutil.rmtree(home)
        shutil.rmtree(f"/tmp/rankfleet-{SOMEBODY}", ignore_errors=True)


def test_a_start_that_fails_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODELS / "demo" / "small", model)
    tensors = load_file(model / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    # Only whoever reads the values sees it: what is checked before anything is started does not.
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, model / "model.safetensors")
    with serve(tmp_path, str(model)) as start:
        shown = start.wait_for("error:")
        assert start.process.wait(STOP_S) == 1
        shown = start.output.read_text()
    said = [line for line in shown.splitlines() if not re.match(r" +\d+\.\d s  ", line)]
    assert said[0].startswith(f"error: tier small: {model}"), shown
    assert "Traceback" not in shown
    assert start.below  # so it has been more than a check
