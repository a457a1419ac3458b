"""Break an arm of an experiment on a running fleet, and change weights under load; see what clients get.

    python -m benchmarks.experiment_rollback      writes benchmarks/results/experiment_rollback.json

`rankfleet serve` with a router and two groups of demo tiers. Users ask without pause. The schedule gives a quarter of
the users to the arm `broken`, whose SLO class no fleet can meet, so that every request of it is refused. Then
`rankfleet experiment set` moves users to another arm, and the monitor of experiments is killed meanwhile.
"""

import json
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from benchmarks.paths import result_file
from benchmarks.server_process import RANKFLEET, serving

from rankfleet.bench.fault_fleet import demo_tiers
from rankfleet.bench.results import measured, write_results
from rankfleet.cluster.environment import free_port
from rankfleet.core.experiment_changes import with_weights
from rankfleet.core.fleet_file import parse_config
from rankfleet.router.experiments import Split

USERS, CLIENTS, PAUSE_S = 500, 4, 0.05
RAMP_AFTER_S = 90.0  # `rankfleet apply` takes some of it
WATCHED_S = 120.0  # after the ramp
CHANGED = {"control": 25, "other": 50}
QUERY, DOCUMENTS = "How do vaccines work?", ["A vaccine trains the immune system.", "Rain is expected.", "Stocks fell."]


def fleet_file(ramp: datetime) -> dict[str, Any]:
    """ramp: when `broken` gets a quarter of the users."""
    arms = {
        "control": {"weight": 90, "model": "small"},
        "other": {"weight": 10, "model": "medium"},
        "broken": {"weight": 0, "slo_class": "impossible"},
    }
    schedule = [{"at": ramp.isoformat(), "weights": {"control": 65, "broken": 25}}]
    return {
        "tiers": {name: tier for name, tier in demo_tiers().items() if name != "large"},
        "groups": {"one": {"tiers": ["small"], "cpus": 0.5}, "two": {"tiers": ["medium"], "cpus": 0.5}},
        "slo_classes": {"impossible": {"slo_ms": 1, "when_none_fits": "refuse"}},
        "experiments": {"size": {"arms": arms, "schedule": schedule, "rollback": {"attainment": None}}},
    }


def users(weights: Mapping[str, float]) -> dict[str, str]:
    """The arm of each user once the ramp has passed, and with `weights` from then on."""
    settings = parse_config(fleet_file(PAST))
    if weights:
        settings = with_weights(settings, "size", weights, PAST + timedelta(seconds=1))
    split = Split("size", settings.experiments["size"])
    return {user: split.assign(user, time.time()).arm for user in (f"user-{i}" for i in range(USERS))}


PAST, FAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
BEFORE, ARMS_AFTER = users({}), users(CHANGED)
BROKEN = {user for user, arm in BEFORE.items() if arm == "broken"}
ARMS = {user: "control" if user in BROKEN else arm for user, arm in BEFORE.items()}  # once `broken` is stopped
MOVED = {user for user, arm in ARMS_AFTER.items() if arm != BEFORE[user]}


def descendants(pid: int) -> set[int]:
    """Ids of all processes below `pid`."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(re.findall(r"^PPid:\s+(\d+)", status.read_text(), re.MULTILINE)[0])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


class Reply(NamedTuple):
    """at_s: when it was asked for, in seconds since 1970. status: 0 if the connection failed."""

    at_s: float
    user: str
    status: int
    arm: str | None


class Load:
    """Clients that ask as one user after the other while the block runs."""

    def __init__(self, url: str) -> None:
        self.replies: list[Reply] = []
        self._url = url
        self._over = threading.Event()
        self._clients = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(CLIENTS)]

    def _ask(self, seed: int) -> None:
        users = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            while not self._over.is_set():
                user, at_s = f"user-{users.randrange(USERS)}", time.time()
                try:
                    reply = http.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "user": user})
                    details = reply.json()["rankfleet"] if reply.status_code == 200 else {}
                    arm = details.get("experiment", {}).get("arm")
                    self.replies.append(Reply(at_s, user, reply.status_code, arm))
                except httpx.HTTPError:
                    self.replies.append(Reply(at_s, user, 0, None))
                time.sleep(PAUSE_S)

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()


def broken_stopped(url: str) -> str | None:
    """Why the arm `broken` is stopped; None while it is not."""
    (experiment,) = httpx.get(f"{url}/v1/fleet", timeout=60, trust_env=False).json()["experiments"]
    reasons = {arm["name"]: arm["stopped"] for arm in experiment["arms"]}
    return reasons["broken"]


def kill_monitor(parent: int) -> int:
    """Kill the process of the monitor, which is the only one of its kind below `parent`; how many were found."""
    found = [
        pid for pid in descendants(parent) if b"ray::ExperimentMonitor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return len(found)


def rollback(url: str, load: Load, ramp_s: float) -> dict[str, Any]:
    """What clients get from before the ramp until 10 s after `broken` is stopped."""
    while (reason := broken_stopped(url)) is None and time.time() < ramp_s + WATCHED_S:
        time.sleep(0.2)
    stopped_after_s = time.time() - ramp_s
    time.sleep(10)
    replies = list(load.replies)
    refused = [reply for reply in replies if reply.status != 200]
    return {
        "reason": reason,
        "stopped_after_s": round(stopped_after_s, 1),
        "answered": len(replies) - len(refused),
        "refused": len(refused),
        "refused_of_other_arms": sum(reply.user not in BROKEN for reply in refused),
        "refused_before_the_step": sum(reply.at_s < ramp_s for reply in refused),
        "first_refused_after_s": round(min(reply.at_s for reply in refused) - ramp_s, 2),
        "last_refused_after_s": round(max(reply.at_s for reply in refused) - ramp_s, 1),
        "statuses": sorted({reply.status for reply in replies}),
    }


def change(url: str, port: int, load: Load, parent: int) -> dict[str, Any]:
    """What clients get while `rankfleet experiment set` moves users from `control` to `other`, and the monitor dies."""
    killed, began, started_s = kill_monitor(parent), len(load.replies), time.time()
    weights = [f"{arm}={weight}" for arm, weight in CHANGED.items()]
    command = [*RANKFLEET, "experiment", "set", "size", *weights, "--port", str(port)]
    said = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    returned_s = time.time()
    handed_s = datetime.fromisoformat(re.findall(r"{at: (\S+),", said)[0]).timestamp()
    time.sleep(20)
    replies = load.replies[began:]
    moved = [reply for reply in replies if reply.user in MOVED]
    after = [reply for reply in replies if reply.at_s > returned_s]
    return {
        "requests": len(replies),
        "failed": sum(reply.status != 200 for reply in replies),
        "command_s": round(returned_s - started_s, 1),
        "first_new_after_s": round(min(reply.at_s for reply in moved if reply.arm == "other") - handed_s, 2),
        "last_old_after_s": round(max(reply.at_s for reply in moved if reply.arm == "control") - handed_s, 2),
        "moved_that_need_not": sum(reply.arm != ARMS[reply.user] for reply in replies if reply.user not in MOVED),
        "share_of_other_after": round(sum(reply.arm == "other" for reply in after) / len(after), 3),
        "share_of_other_expected": round(
            sum(ARMS[r.user] == "other" or r.user in MOVED for r in after) / len(after), 3
        ),
        "monitors_killed": killed,
        "still_stopped": broken_stopped(url) is not None,
    }


def main() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "fleet.yaml"
        config.write_text(yaml.safe_dump(fleet_file(FAR), sort_keys=False))
        with serving([*RANKFLEET, "serve", "--config", config, "--port", str(port)], Path(folder)) as fleet:
            ramp = datetime.now(UTC) + timedelta(seconds=RAMP_AFTER_S)
            config.write_text(yaml.safe_dump(fleet_file(ramp), sort_keys=False))
            subprocess.run([*RANKFLEET, "apply", str(config), "--port", str(port)], check=True)
            with Load(url) as load:
                results = {"rollback": rollback(url, load, ramp.timestamp())}
                results["change"] = change(url, port, load, fleet.pid)
    print(json.dumps(results, indent=2))
    write_results(result_file("experiment_rollback"), results, measured())


if __name__ == "__main__":
    main()
