"""A contestant's process: started, and waited for until it ranks."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from benchmarks.contest.process import ContenderFailed
from benchmarks.server_process import started
from benchmarks.servers.contestants import Contestant, Place

START_S = 300.0  # vLLM compiles the model when it starts
POLL_S = 0.5
JSON = {"content-type": "application/json"}
LOG_TAIL = 1500  # characters of the log that are shown when a server has failed


@contextlib.contextmanager
def running(contestant: Contestant, place: Place) -> Iterator[float]:
    """Start a server and end it afterwards; yields the seconds until it ranked. Raises ContenderFailed."""
    log = place.scratch / f"{contestant.name}.log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | dict(contestant.variables(place))
    started_s = time.monotonic()
    with started(contestant.command(place), log, environment) as process:
        wait_until_ranks(contestant, place, process, log, started_s + START_S)
        yield time.monotonic() - started_s


def wait_until_ranks(
    contestant: Contestant, place: Place, process: subprocess.Popen[bytes], log: Path, until_s: float
) -> None:
    """Ask until a request is answered. Raises ContenderFailed with the end of the log."""
    url = f"http://127.0.0.1:{place.port}{contestant.path}"
    while process.poll() is None and time.monotonic() < until_s:
        with contextlib.suppress(httpx.HTTPError):
            body = contestant.body("a", ["b", "c"])
            answer = httpx.post(url, content=body, headers=JSON, timeout=20, trust_env=False)
            if answer.status_code == 200:
                return
        time.sleep(POLL_S)
    said = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
    state = "did not answer in time" if process.poll() is None else f"ended with status {process.returncode}"
    raise ContenderFailed(f"{contestant.name} {state}: {said}")
