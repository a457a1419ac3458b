"""Simulate experiments that are looked at after every 100 requests, and count the arms that are stopped.

    python -m benchmarks.rollback      writes benchmarks/results/rollback.json

Three arms of one experiment, 20,000 requests in two periods. Users differ: how often they ask follows a power law, and
each has shares of failures, missed budgets and slow answers of its own; one in a hundred fails always. In `alike` all
arms are alike, so that every stop is a false alarm. In the others, one arm is worse by a known amount.
"""

import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from benchmarks.paths import result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.core.experiment_state import COLUMNS
from rankfleet.core.experiments import Rollback
from rankfleet.estimates.rollback import worse_arms

RUNS = {"alike": 1000, "alike, 2% of the users": 1000}
OTHER_RUNS = 200
USERS, REQUESTS, PERIODS, LOOK = 3000, 20_000, 2, 100
ARMS = ("control", "small", "large")
BUCKETS = 10_000
ROLLBACK = Rollback(latency_p99=1.5)
# By case, what is added to the shares of failures, missed budgets and slow answers of the arm `small`, and its share of
# the users.
CASES = {
    "alike": ((0.0, 0.0, 0.0), 1 / 3),
    "alike, 2% of the users": ((0.0, 0.0, 0.0), 0.02),
    "as bad as allowed": ((0.01, 0.02, 0.0), 1 / 3),
    "fails always": ((1.0, 0.0, 0.0), 1 / 3),
    "fails always, 2% of the users": ((1.0, 0.0, 0.0), 0.02),
    "fails in 10% more": ((0.1, 0.0, 0.0), 1 / 3),
    "misses 20% more budgets": ((0.0, 0.2, 0.0), 1 / 3),
    "20% of the answers are slow": ((0.0, 0.0, 0.2), 1 / 3),
}


def simulate(case: str, seed: int) -> tuple[int, int] | None:
    """Requests of all arms, and of the stopped one, when the first arm was stopped; None if none was."""
    worse, share = CASES[case]
    random = np.random.default_rng([seed, list(CASES).index(case)])
    arm_of = random.choice(3, USERS, p=[1 - share - (1 - share) / 2, share, (1 - share) / 2])
    activity = random.pareto(1.5, USERS) + 0.1
    shares = random.beta([0.1, 0.5, 0.05], [10, 10, 10], (USERS, 3))  # 1%, 5% and 0.5% at the mean
    shares[random.random(USERS) < 0.01, 0] = 1.0
    users = random.choice(USERS, REQUESTS, p=activity / activity.sum())
    extra = np.where((arm_of[users] == 1)[:, None], worse, 0.0)
    happened = random.random((REQUESTS, 3)) < np.minimum(1.0, shares[users] + extra)
    failed, answered = happened[:, 0], ~happened[:, 0]
    late, slow = happened[:, 1] & answered, happened[:, 2] & answered
    columns = {"requests": answered | failed, "errors": failed, "budgets": answered, "missed": late}
    rows = np.stack([(columns | {"timed": answered, "slow": slow})[name] for name in COLUMNS], axis=1).astype(int)
    buckets, bucket = np.unique(random.choice(BUCKETS, USERS)[users], return_inverse=True)
    arms = {arm: np.zeros((len(buckets), len(COLUMNS)), int) for arm in ARMS}
    for start in range(0, REQUESTS, LOOK):
        if start % (REQUESTS // PERIODS) == 0:
            for counts in arms.values():
                counts[:] = 0
        for place, arm in enumerate(ARMS):
            chosen = np.flatnonzero(arm_of[users[start : start + LOOK]] == place) + start
            np.add.at(arms[arm], bucket[chosen], rows[chosen])
        if stopped := worse_arms(arms, "control", ROLLBACK, 2, 1 + start // (REQUESTS // PERIODS)):
            return start + LOOK, int(arms[next(iter(stopped))][:, 0].sum())
    return None


def measure(case: str, pool: ProcessPoolExecutor) -> dict[str, float]:
    runs = RUNS.get(case, OTHER_RUNS)
    found = [each for each in pool.map(simulate, [case] * runs, range(runs), chunksize=20) if each is not None]
    result: dict[str, float] = {"runs": runs, "stopped_share": round(len(found) / runs, 4)}
    if found:
        total, arm = (np.array(each) for each in zip(*found, strict=True))
        result |= {"requests_p50": float(np.median(total)), "requests_p95": float(np.percentile(total, 95))}
        result |= {"arm_requests_p50": float(np.median(arm)), "arm_requests_p95": float(np.percentile(arm, 95))}
    print(case, result, file=sys.stderr)
    return result


def main() -> None:
    with ProcessPoolExecutor() as pool:
        results = {case: measure(case, pool) for case in CASES}
    write_results(result_file("rollback"), results, measured())


if __name__ == "__main__":
    main()
