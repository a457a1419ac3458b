"""What the report of experiments promises, on simulated experiments: false alarms, power, mismatches, shares.

    python -m benchmarks.experiments [--json benchmarks/results/experiments.json]

Users differ: each has an own rate of clicks (beta) and an own speed (lognormal), and sends an own number of requests
(gamma). Requests are looked at after every 100, by clicks (CTR@10), latency and attainment, as `rankfleet experiment
report` compares them; an alarm is any of the three intervals that excludes 0, at any look.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.paths import result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.core.experiments import Experiment
from rankfleet.estimates.differences import ALPHA, Difference, Ratio
from rankfleet.experiments.assignment import MISMATCH_P, mismatch_p
from rankfleet.experiments.measures import measure_of
from rankfleet.experiments.needed import need_of
from rankfleet.experiments.report import LATENCY_SHARE
from rankfleet.experiments.requests import Requests
from rankfleet.router.experiments import BUCKETS, bucket, bucket_tables, unit_hash

EXPERIMENTS, LOOKS, BETWEEN = 1000, 100, 100
PLANTED, POWER_LOOKS = 300, 100
REQUESTS_PER_USER = 4
CLICK_RATE, LIKENESS = 0.3, 0.1  # of users' click rates: their mean, and how alike the requests of a user are
MEAN_MS, USER_SPREAD, REQUEST_SPREAD = 30.0, 0.3, 0.4
BUDGET_MS = 60.0
MARGINS = {"ctr@10": 0.03, "latency_ms": LATENCY_SHARE * MEAN_MS, "attainment": 0.02}
UNITS = 1_000_000
LOST = 0.1  # of one arm's users, in the experiments with a mismatch


def draw(requests: int, seed: int, lift: float = 0.0, faster_ms: float = 0.0) -> Requests:
    """Requests of users in two arms of half each. lift, faster_ms: what the second arm adds to the chance of a click,
    and takes from the latency."""
    rng = np.random.default_rng(seed)
    users = requests // REQUESTS_PER_USER
    activity = rng.gamma(1.0, 1.0, users)
    user = rng.choice(users, requests, p=activity / activity.sum())
    arm = rng.integers(0, 2, users)
    spread = 1 / LIKENESS - 1
    rate = rng.beta(CLICK_RATE * spread, (1 - CLICK_RATE) * spread, users)
    clicked = rng.random(requests) < rate[user] + lift * arm[user]
    speed = rng.lognormal(0.0, USER_SPREAD, users)
    noise = rng.lognormal(0.0, REQUEST_SPREAD, requests)
    mean = np.exp((USER_SPREAD**2 + REQUEST_SPREAD**2) / 2)
    total_ms = MEAN_MS * speed[user] * noise / mean - faster_ms * arm[user]
    nothing = np.zeros(requests)
    return Requests(
        arm_names=("control", "treatment"),
        arms=arm[user],
        unit_ids=np.array([f"{number:016x}" for number in range(users)]),
        units=user,
        steps=nothing.astype(int),
        at=np.arange(requests, dtype=float),
        routers=np.full(requests, "r"),
        total_ms=total_ms,
        failed=nothing > 0,
        met=(total_ms <= BUDGET_MS).astype(float),
        degraded=nothing > 0,
        tiers=np.full(requests, "small"),
        first_clicks=np.where(clicked, 1.0, np.inf),
        conversions=nothing,
        labelled={},
        clicks_known=True,
    )


def first_alarms(requests: Requests, between: int, names: list[str]) -> dict[str, int | None]:
    """By measure, the number of requests at the first look at which its interval excludes 0; None if there is none."""
    users = len(requests.unit_ids)
    arm_of = np.full(users, -1)
    arm_of[requests.units] = requests.arms
    found: dict[str, int | None] = {}
    for name in names:
        values = requests.values(measure_of(name))
        sums, counts = np.zeros(users), np.zeros(users)
        found[name] = None
        for end in range(between, len(requests) + 1, between):
            part = slice(end - between, end)
            np.add.at(sums, requests.units[part], values[part])
            np.add.at(counts, requests.units[part], 1.0)
            before, after = (Ratio.of(sums[arm_of == arm], counts[arm_of == arm]) for arm in (0, 1))
            difference = Difference.between(before, after, MARGINS[name], ALPHA / len(MARGINS))
            if difference.low > 0 or difference.high < 0:
                found[name] = end
                break
    return found


def one_without_difference(seed: int) -> dict[str, int | None]:
    return first_alarms(draw(LOOKS * BETWEEN, seed), BETWEEN, [*MARGINS])


def one_planted(name: str, size: float, requests: int, seed: int) -> int | None:
    planted = {"lift": size} if name == "ctr@10" else {"faster_ms": size}
    return first_alarms(draw(requests, seed, **planted), requests // POWER_LOOKS, [name])[name]


def one_mismatch(lost: float, seed: int) -> float:
    """p-value with 10,000 users, of whom a share of one arm's are lost."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 2, 10_000)
    kept = (arm == 0) | (rng.random(10_000) >= lost)
    counts = np.bincount(arm[kept], minlength=2)
    return mismatch_p({"control": int(counts[0]), "treatment": int(counts[1])}, {"control": 1.0, "treatment": 1.0})


def shares() -> dict[str, Any]:
    """How far the shares of UNITS users are from their weights, in standard errors, and what a step from 10% to 20%
    moves."""
    steps = [{"at": "2026-12-01T00:00:00Z", "weights": {"control": 80, "treatment": 20}}]
    experiment = Experiment.model_validate(
        {"arms": {"control": {"weight": 90}, "treatment": {"weight": 10}}, "schedule": steps}
    )
    buckets = np.array([bucket(unit_hash("shares", "1", f"user-{number}")) for number in range(UNITS)])
    first, second = bucket_tables(experiment)
    share = float((first[buckets] == 1).mean())
    moved = first[buckets] != second[buckets]
    left = moved & (first[buckets] == 1)
    return {
        "units": UNITS,
        "buckets": BUCKETS,
        "share": share,
        "standard_errors": abs(share - 0.1) / (0.1 * 0.9 / UNITS) ** 0.5,
        "moved": float(moved.mean()),
        "moved_out_of_the_arm_that_grows": int(left.sum()),
    }


def run() -> dict[str, Any]:
    with ProcessPoolExecutor(2) as pool:
        alarms = list(pool.map(one_without_difference, range(EXPERIMENTS), chunksize=10))
        recorded = draw(20_000, 1)
        planted: dict[str, Any] = {}
        for name in ("ctr@10", "latency_ms"):
            need = need_of(recorded, measure_of(name), MARGINS[name], 0.5, len(MARGINS), np.random.default_rng(1))
            assert need.requests is not None
            requests = need.requests // POWER_LOOKS * POWER_LOOKS
            seeds = range(10_000, 10_000 + PLANTED)
            ends = list(pool.map(partial(one_planted, name, MARGINS[name], requests), seeds, chunksize=5))
            found = [end for end in ends if end is not None]
            planted[name] = {
                "difference": MARGINS[name],
                "requests_planned": need.requests,
                "experiments": PLANTED,
                "found": len(found) / PLANTED,
                "median_requests_when_found": float(np.median(found)),
            }
            print(name, planted[name], file=sys.stderr)
        p_lost = list(pool.map(partial(one_mismatch, LOST), range(EXPERIMENTS), chunksize=50))
        p_whole = list(pool.map(partial(one_mismatch, 0.0), range(EXPERIMENTS), chunksize=50))
    return {
        "without_difference": {
            "experiments": EXPERIMENTS,
            "looks": LOOKS,
            "requests": LOOKS * BETWEEN,
            "false_alarms": sum(any(each.values()) for each in alarms) / EXPERIMENTS,
            "by_measure": {name: sum(each[name] is not None for each in alarms) / EXPERIMENTS for name in MARGINS},
        },
        "planted": planted,
        "mismatch": {
            "experiments": EXPERIMENTS,
            "users": 10_000,
            "lost_share_of_an_arm": LOST,
            "found": sum(p < MISMATCH_P for p in p_lost) / EXPERIMENTS,
            "false_alarms": sum(p < MISMATCH_P for p in p_whole) / EXPERIMENTS,
        },
        "shares": shares(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=result_file("experiments"))
    options = parser.parse_args()
    write_results(options.json, run(), measured(packages=["scipy"]))
