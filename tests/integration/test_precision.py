"""The precision of a group whose replicas would decide differently, as if they ran on different processors."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from rankfleet.engine.native.library import cpu_flags
from tests.integration.fleet import RunningFleet, wait_for
from tests.serving import READY, serving

FLEET = """
tiers: {large: {model: demo/large, quality: 0.5}}
groups: {demo: {tiers: [large], replicas: {min: 1, max: 1}, cpus: 0.3}}
router_cpus: 0.3
"""
LOGS = Path("/tmp/ray/session_latest/logs/serve")
BFLOAT16 = cpu_flags() & {"avx512_bf16", "amx_bf16"}


def logged() -> list[str]:
    """The precisions that replicas have said they compute in, in any order."""
    text = "".join(path.read_text() for path in LOGS.glob("replica_rankfleet_demo_*.log"))
    return re.findall(r"tier large computes in (\w+): the fastest here", text)


@pytest.mark.skipif(not BFLOAT16, reason="this processor has no instructions for bfloat16, so there is no choice")
def test_replicas_follow_the_first_and_when_all_are_gone_decide_anew(tmp_path: Path) -> None:
    config, cache = tmp_path / "fleet.yaml", tmp_path / "cache"
    config.write_text(FLEET)
    cache.mkdir()

    def make_fastest(dtype: str) -> None:
        """Let replicas that decide from now on remember that this precision is the fastest."""
        (remembered,) = cache.glob("rates-*.json")
        stored = json.loads(remembered.read_text())
        stored["pairs_per_s"] |= {"float32": 1.0, "bfloat16": 1.0} | {dtype: 2.0}
        remembered.write_text(json.dumps(stored))

    environment = os.environ | {"RANKFLEET_CACHE": str(cache)}
    with serving(config, tmp_path / "output.txt", environment=environment) as serving_fleet:
        assert READY in serving_fleet.wait_for(READY), serving_fleet.output.read_text()
        address = f"http://127.0.0.1:{serving_fleet.port}"
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as http:
            fleet = RunningFleet(http, config, serving_fleet)

            def precision() -> dict[str, Any]:
                (tier,) = (m for m in http.get("/v1/models").json()["data"] if m["kind"] == "tier")
                return tier.get("precision") or {}

            first = precision()
            assert first["dtype"] == max(first["pairs_per_s"], key=first["pairs_per_s"].get)
            assert first["pairs_per_s"].keys() == {"float32", "bfloat16"}
            other = "float32" if first["dtype"] == "bfloat16" else "bfloat16"
            make_fastest(other)
            fleet.apply(lambda file: file["groups"]["demo"].update(replicas={"min": 2, "max": 2}))
            wait_for(lambda: logged() == [first["dtype"]] * 2, "a second replica follows the first")
            for pid in fleet.wait_for_replicas(2).demo:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: precision().get("dtype") == other, "those that take their place decide anew")
            wait_for(lambda: logged().count(other) == 2, "and both of them agree")
            assert logged().count(first["dtype"]) == 2
