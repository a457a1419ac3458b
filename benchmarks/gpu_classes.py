"""How many GPUs of each class a load takes, by simulation with the published rates of each class.

    python -m benchmarks.gpu_classes

Poisson arrivals of configs/workloads/mixed.yaml on the fleet of configs/sim-fleet.yaml, with the rates of
configs/published/ettin.json. For each goal of quality, the fewest GPUs with which ATTAINMENT is reached, too. Writes
benchmarks/results/gpu_classes.json; takes minutes.
"""

from functools import cache
from typing import Any

import numpy as np
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.core.fleet_file import parse_config, read_config
from rankfleet.estimates.latency import LatencyModel
from rankfleet.recommend.figures import PUBLISHED, read_json
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.results import results
from rankfleet.simulate.run import Simulation
from rankfleet.simulate.traces import from_process
from rankfleet.simulate.workload import draw, read_workload

RESULTS = result_file("gpu_classes")
CLASSES = ("H100", "RTX 3090")
GOALS = ("68m", "150m", "400m")  # mean nDCG@10 of at least that of this tier
ATTAINMENT = 0.99
RATE, SECONDS = 60.0, 180.0
MAX_GPUS = 64
SEED = 1


def rates_of(gpu: str) -> dict[str, LatencyModel]:
    """Latency models by tier, of the published pairs per second and the fixed cost of a batch assumed with them."""
    published = read_json(PUBLISHED)
    fleet = read_config(ROOT / "configs/sim-fleet.yaml")
    each_ms = {t: 1e3 / (published["tiers"][t]["pairs_per_s"][gpu] * published["tokens"]) for t in fleet.tiers}
    return {tier: LatencyModel(published["alpha_ms"], token_ms, 0.0) for tier, token_ms in each_ms.items()}


@cache
def simulated(gpu: str, count: int) -> dict[str, Any]:
    """Figures of a fleet of `count` GPUs of this class."""
    settings = read_config(ROOT / "configs/sim-fleet.yaml").model_dump(mode="json")
    settings["groups"]["gpu"]["replicas"] = {"min": count, "max": count}
    fleet, models = parse_config(settings), rates_of(gpu)
    workload, rng = read_workload(ROOT / "configs/workloads/mixed.yaml"), np.random.default_rng(SEED)
    requests = draw(workload, from_process(f"poisson:rate={RATE:g}", SECONDS, rng), rng)
    outcome = Simulation(fleet, models, workload, policy_of("slo", fleet, models), SEED).run(requests)
    figures = results(outcome, requests, fleet, workload)
    kept = {name: figures[name] for name in ("requests", "attainment", "mean_quality", "p99_ms", "tiers")}
    print(gpu, count, kept["attainment"], kept["mean_quality"], flush=True)
    return {"gpus": count, **kept, "busy": round(figures["gpu_seconds"] / figures["replica_seconds"], 3)}


def fewest(gpu: str, quality: float) -> dict[str, Any] | None:
    """Figures of the smallest fleet that reaches this mean quality and ATTAINMENT; None if MAX_GPUS do not."""

    def reaches(count: int) -> bool:
        found = simulated(gpu, count)
        return bool(found["attainment"] >= ATTAINMENT and found["mean_quality"] >= quality)

    high = 1
    while not reaches(high):
        high *= 2
        if high > MAX_GPUS:
            return None
    low = high // 2  # does not reach it
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return simulated(gpu, high)


def main() -> None:
    tiers = read_config(ROOT / "configs/sim-fleet.yaml").tiers
    found = {goal: {gpu: fewest(gpu, tiers[goal].quality) for gpu in CLASSES} for goal in GOALS}
    settings = {"requests_per_s": RATE, "seconds": SECONDS, "attainment": ATTAINMENT, "seed": SEED}
    write_results(RESULTS, {"settings": settings, "goals": found}, measured())


if __name__ == "__main__":
    main()
