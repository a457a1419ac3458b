"""Starting a fleet where the environment is in the way, and starts that fail. Three starts."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankfleet.engine.checkpoint.files import MODELS
from tests.serving import RANKFLEET, READY, Serving, serving

FLEET = """
tiers: {small: {model: MODEL, quality: 0.3}}
groups: {demo: {tiers: [small], cpus: 0.5}}
slo_classes: {relaxed: {slo_ms: 20000}}
"""
UNREACHABLE_PROXY = "http://127.0.0.1:9"
UNUSED_UID = 54321


def fleet_file(folder: Path, model: str = "demo/small") -> Path:
    path = folder / "fleet.yaml"
    path.write_text(FLEET.replace("MODEL", model))
    return path


def rank(fleet: Serving, **fields: object) -> dict:
    body = {"query": "cat", "documents": ["a cat", "rain"]} | fields
    return httpx.post(f"http://127.0.0.1:{fleet.port}/v1/rerank", json=body, timeout=30, trust_env=False).json()


def test_a_fleet_starts_behind_an_unreachable_proxy_and_without_a_home_folder(tmp_path: Path) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), UNREACHABLE_PROXY)
    environment = os.environ | proxies | {"HOME": "/dev/null", "NO_PROXY": "localhost,127.0.0.1"}
    with serving(fleet_file(tmp_path), tmp_path / "output.txt", environment=environment) as fleet:
        shown = fleet.wait_for(READY)
        assert READY in shown
        assert re.search(r"^ +\d+\.\d s  ray: starting$", shown, re.MULTILINE)
        assert re.search(r"^ +\d+\.\d s  .*group demo: loading", shown, re.MULTILINE)
        reply = rank(fleet, slo_ms=5000)
        assert reply["model"] == "small"
        assert reply["rankfleet"]["slo"]["degraded"] is False

        # A second fleet at the same port is refused before it starts anything.
        again = [RANKFLEET, "serve", "--config", "demo", "--port", str(fleet.port)]
        refused = subprocess.run(again, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1
        assert f"error: 127.0.0.1:{fleet.port} is in use" in refused.stderr

        # `apply` with a home folder finds the fleet too, though the fleet's token is elsewhere.
        changed = tmp_path / "changed.yaml"
        changed.write_text(FLEET.replace("MODEL", "demo/small").replace("20000", "10000"))
        apply = [RANKFLEET, "apply", str(changed), "--port", str(fleet.port)]
        done = subprocess.run(apply, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert rank(fleet, model="relaxed")["rankfleet"]["slo"]["budget_ms"] == 10000


def test_a_second_user_can_start_a_fleet_on_the_same_machine(tmp_path: Path) -> None:
    keep = "dac_read_search"  # to read this checkout, wherever it lies; writing needs ordinary permissions
    become = ("setpriv", "--reuid", str(UNUSED_UID), "--regid", str(UNUSED_UID), "--clear-groups")
    become += (f"--inh-caps=-all,+{keep}", f"--ambient-caps=-all,+{keep}", f"--bounding-set=-all,+{keep}")
    if os.getuid() or not shutil.which("setpriv") or subprocess.run([*become, "true"], capture_output=True).returncode:
        pytest.skip("needs root and setpriv")
    first = Path("/tmp/haproxy-serve")  # Serve's default folder, which belongs to the first user
    first.mkdir(exist_ok=True)
    home = Path("/tmp") / f"rankfleet-home-{UNUSED_UID}"  # pytest's own folders are closed to other users
    home.mkdir(exist_ok=True)
    shutil.chown(home, UNUSED_UID, UNUSED_UID)
    environment = os.environ | {"HOME": str(home)}
    output = tmp_path / "output.txt"
    try:
        with serving(fleet_file(tmp_path), output, (*become, RANKFLEET), environment) as fleet:
            assert READY in fleet.wait_for(READY)
            assert rank(fleet)["model"] == "small"
    finally:
        shutil.rmtree(home)
        shutil.rmtree(f"/tmp/rankfleet-{UNUSED_UID}", ignore_errors=True)


def test_a_start_that_fails_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODELS / "demo" / "small", model)
    tensors = load_file(model / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    # The checks before the start read shapes; only a replica reads the values.
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, model / "model.safetensors")
    with serving(fleet_file(tmp_path, str(model)), tmp_path / "output.txt") as fleet:
        fleet.wait_for("error:")
        assert fleet.process.wait(30) == 1
        shown = fleet.output.read_text()
    messages = [line for line in shown.splitlines() if not re.match(r" +\d+\.\d s  ", line)]
    assert messages[0].startswith(f"error: tier small: {model}"), shown
    assert "Traceback" not in shown
    assert fleet.started, "the checks before the start refused it; this test is about what comes after"
