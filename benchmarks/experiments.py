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
    return {name: first_alarm(requests, between, name) for name in names}


def first_alarm(requests: Requests, between: int, name: str) -> int | None:
    """All looks of one measure at once; the last is compared with what the report's own code says."""
    values, looks = requests.values(measure_of(name)), len(requests) // between
    look = np.arange(len(requests)) // between
    arms = []
    for arm in (0, 1):
        mine = requests.arms == arm
        units, places = np.unique(requests.units[mine], return_inverse=True)
        cells, shape = places * looks + look[mine], (len(units), looks)
        sums = np.bincount(cells, values[mine], len(units) * looks).reshape(shape).cumsum(axis=1)
        counts = np.bincount(cells, minlength=len(units) * looks).reshape(shape).cumsum(axis=1).astype(float)
        arms.append([ratio_at(sums, counts, at) for at in range(looks)])
        assert_same(arms[-1][-1], Ratio.of(sums[:, -1], counts[:, -1]))
    for at, (before, after) in enumerate(zip(*arms, strict=True)):
        difference = Difference.between(before, after, MARGINS[name], ALPHA / len(MARGINS))
        if difference.low > 0 or difference.high < 0:
            return (at + 1) * between
    return None


def ratio_at(sums: np.ndarray, counts: np.ndarray, at: int) -> Ratio:
    """`Ratio.of` at one look, from moments of the units' sums: in a tenth of the time."""
    s, n = sums[:, at], counts[:, at]
    total, units = float(n.sum()), int((n > 0).sum())
    value = float(s.sum()) / total
    squares = float(s @ s - 2 * value * (s @ n) + value**2 * (n @ n))
    variance = max(squares / total**2, 1 / units**2) * units / (units - 1)
    return Ratio(value, variance**0.5, total**2 / float(n @ n))


def assert_same(one: Ratio, other: Ratio) -> None:
    pairs = [(one.value, other.value), (one.standard_error, other.standard_error), (one.units, other.units)]
    assert np.allclose(*zip(*pairs, strict=True), rtol=1e-6), (one, other)


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
