"""Compare this autoscaling policy with Ray Serve's default one on the same load, on a local cluster of two nodes with
fake GPUs and the demo tiers.

    python -m benchmarks.autoscaling_live run        writes benchmarks/results/autoscaling_live.json

Each policy gets a cluster of its own, one after the other. Requests arrive at random, in an open loop: a quarter of the
load, then all of it, then a quarter again. The capacity of one replica is measured first.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.paths import result_file

from rankfleet.bench.fault_fleet import demo_tiers
from rankfleet.bench.results import measured, read_results, write_json, write_results
from rankfleet.bench.serve import load_summary, token_counter
from rankfleet.bench.traffic import Call, calls, closed_loop, open_loop
from rankfleet.cluster.deploy import wait_until_ready
from rankfleet.cluster.environment import LOCAL, LOW_LATENCY, free_port, side_ports
from rankfleet.cluster.ray_private import controller_client
from rankfleet.cluster.serve_config import APP_NAME, serve_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from rankfleet.simulate.traces import from_process
from rankfleet.simulate.workload import Requests, Workload, draw

RESULTS = result_file("autoscaling_live")
BEFORE_S, LOADED_S, AFTER_S = 20.0, 100.0, 20.0
FULL_DEMAND = 1.3  # seconds of work per second of one replica's time, at the full load
SEED = 1
WORKLOAD = Workload.model_validate(
    {
        "classes": {
            "interactive": {"slo_ms": 200, "share": 0.5, "when_none_fits": "degrade"},
            "relaxed": {"slo_ms": 1000, "share": 0.5, "when_none_fits": "degrade"},
        },
        "candidates": [{"count": 20, "share": 0.5}, {"count": 40, "share": 0.5}],
        "tokens": 64,
    }
)
FLEET = {
    "tiers": demo_tiers(),
    "groups": {
        "demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 1, "max": 2}, "cpus": 0.25, "gpus": 1}
    },
    "slo_classes": {"interactive": {"slo_ms": 200}, "relaxed": {"slo_ms": 1000}},
    "autoscaling": {"downscale_window_s": 15, "cooldown_s": 5, "stable_s": 15, "start_s": 10},
    "router_cpus": 0.25,
}


def deployed(config: FleetConfig, policy: str, port: int) -> dict[str, Any]:
    """The fleet with this project's policy, or with Ray's default one and its default settings."""
    whole = serve_config(config, "127.0.0.1", port) | {"proxy_location": "HeadOnly"}
    if policy == "ray":
        (application,) = whole["applications"]
        del application["autoscaling_policy"]
        application["deployments"].append(
            {"name": "demo", "autoscaling_config": {"min_replicas": 1, "max_replicas": 2}}
        )
    return whole


def watch(seen: list[list[float]], over: threading.Event, start_s: float) -> None:
    """Append (seconds, running replicas, starting replicas) to `seen` whenever a count changes, until `over` is set."""
    from ray import serve

    while not over.wait(0.2):
        states = serve.status().applications[APP_NAME].deployments["demo"].replica_states
        found = {str(getattr(state, "value", state)): n for state, n in states.items()}
        now = [float(found.get("RUNNING", 0)), float(found.get("STARTING", 0) + found.get("PENDING_MIGRATION", 0))]
        if not seen or seen[-1][1:] != now:
            seen.append([round(time.perf_counter() - start_s, 1), *now])


def arrivals(rate: float) -> Requests:
    rng = np.random.default_rng(SEED)
    parts, start_s = [], 0.0
    for share, seconds in ((0.25, BEFORE_S), (1.0, LOADED_S), (0.25, AFTER_S)):
        parts.append(start_s + from_process(f"poisson:rate={rate * share:g}", seconds, rng))
        start_s += seconds
    return draw(WORKLOAD, np.concatenate(parts), rng)


def run_policy(policy: str) -> dict[str, Any]:
    """Figures of one policy on a cluster of its own."""
    config = parse_config(FLEET)
    port = free_port()
    os.environ.update(LOW_LATENCY | LOCAL | side_ports() | {"RAY_AUTH_MODE": "disabled"})
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig, ServeDeploySchema

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2, num_gpus=4)
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    try:
        serve.start(
            proxy_location="HeadOnly",  # both nodes are this computer
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            logging_config=LoggingConfig(enable_access_log=False),
        )
        client = controller_client()
        assert client is not None
        client.deploy_apps(ServeDeploySchema.model_validate(deployed(config, policy, port)))
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, lambda text: None)
        count, special = token_counter(config)
        every = Requests(np.zeros(2), np.ones(2, dtype=np.int64), np.array([20, 40]))
        costs_s = []
        for call in calls(every, WORKLOAD, count, special, SEED):
            replies = asyncio.run(closed_loop(url, Call(0.0, 1, None, call.body), 1, 3.0))
            costs_s.append(float(np.median([reply.infer_ms for reply in replies if reply.scored])) / 1e3)
        rate = round(FULL_DEMAND / float(np.mean(costs_s)), 1)
        planned = calls(arrivals(rate), WORKLOAD, count, special, SEED)
        time.sleep(10)  # so that the autoscaler's windows no longer hold the calibration
        seen: list[list[float]] = []
        over = threading.Event()
        watcher = threading.Thread(target=watch, args=(seen, over, time.perf_counter() + 0.05))
        watcher.start()
        replies = asyncio.run(open_loop(url, planned))
        over.set()
        watcher.join()
        figures = load_summary(replies, list(WORKLOAD.classes), config.quality.retriever)
        middle_s, end_s = BEFORE_S + LOADED_S / 2, BEFORE_S + LOADED_S
        for name, from_s, to_s in (("first_half", BEFORE_S, middle_s), ("second_half", middle_s, end_s)):
            part = [reply for reply in replies if from_s <= reply.call.at_s < to_s]
            figures[name] = load_summary(part, list(WORKLOAD.classes), config.quality.retriever)
        return {"rate": rate, "costs_ms": [round(s * 1e3, 1) for s in costs_s], "replicas": seen, **figures}
    finally:
        ray.shutdown()
        cluster.shutdown()


def run(policies: list[str]) -> None:
    """Measure each policy in a process of its own; figures of the other policy stay."""
    settings = {"seconds": [BEFORE_S, LOADED_S, AFTER_S], "settings": FLEET["autoscaling"]}
    for policy in policies:
        with tempfile.NamedTemporaryFile() as file:
            command = [sys.executable, "-m", "benchmarks.autoscaling_live", "one"]
            subprocess.run([*command, "--policy", policy, "--json", file.name], check=True)
            figures = read_results(Path(file.name))
        print(policy, {key: value for key, value in figures.items() if key != "classes"})
        write_results(RESULTS, settings | {policy: figures}, measured(), merge=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "one"))
    parser.add_argument("--policy", choices=("need", "ray"), help="one alone; run adds it to the results")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.verb == "run":
        run([options.policy] if options.policy else ["need", "ray"])
    else:
        write_json(options.json, run_policy(options.policy))
