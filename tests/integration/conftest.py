"""One fleet for all integration tests, started the way a user starts it: `rankfleet serve`, ended by Ctrl-C."""

import json
import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.fleet import FLEET, PASSAGES, RunningFleet
from tests.serving import RANKFLEET, READY, serving

# Ray publishes metrics every 10 s by default, and tests would wait for that.
ENVIRONMENT = os.environ | {"RAY_metrics_report_interval_ms": "1000"}


@pytest.fixture(scope="session")
def running_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    config, output = folder / "fleet.yaml", folder / "output.txt"
    config.write_text(FLEET)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"p{i}", "text": text}) + "\n" for i, text in enumerate(PASSAGES)))
    subprocess.run([RANKFLEET, "index", "build", str(corpus), "--out", str(folder / "index")], check=True)
    with serving(config, output, environment=ENVIRONMENT) as fleet:
        assert READY in fleet.wait_for(READY), f"the fleet did not start:\n{output.read_text()}"
        with httpx.Client(base_url=f"http://127.0.0.1:{fleet.port}", timeout=60, trust_env=False) as http:
            yield RunningFleet(http, config, fleet)
        assert fleet.stop() == 0, output.read_text()
        assert "stopped" in output.read_text()
