"""Whether units were assigned as the fleet file says: what is left out of a comparison, and what forbids one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rankfleet.core.experiments import Experiment
from rankfleet.experiments.requests import Requests
from rankfleet.router.experiments import bucket, bucket_tables

MISMATCH_P = 0.001  # below it, units are not shared as planned; by luck once in a thousand experiments
STOP_GRACE_S = 5.0  # in which routers learn that an arm is stopped


@dataclass(frozen=True)
class Mismatch:
    """A sample ratio mismatch. p: of the χ² test, corrected for the number of steps. cause: for people."""

    step: int
    p: float
    units: dict[str, int]
    expected: dict[str, float]
    cause: str


@dataclass(frozen=True)
class Assignments:
    """How the units of an experiment were assigned.

    kept: bool [requests], those that a comparison may use: before any arm was stopped, assigned as the file says. A
        unit that a step of the schedule has moved counts in either arm, at its time: leaving it out would leave those
        in that stayed.
    stopped_at: by arm that was stopped while the file still gives it weight, seconds since 1970.
    otherwise: requests that were assigned otherwise than the file says, such as by weights that have been edited since.
    """

    kept: np.ndarray
    stopped_at: dict[str, float]
    otherwise: int
    mismatch: Mismatch | None


def check_assignments(requests: Requests, experiment: Experiment, control: str) -> Assignments:
    """control: the arm that gets the units of one that is stopped."""
    tables = bucket_tables(experiment)
    buckets = np.array([bucket(unit) for unit in requests.unit_ids], np.int64)[requests.units]
    in_force = np.minimum(requests.steps, len(tables) - 1)
    by_file = np.array([*tables], np.int64)[in_force, buckets]
    stopped_at = stops_of(requests, by_file, requests.arm_names.index(control))
    running = requests.at < min(stopped_at.values(), default=np.inf)
    kept = running & (requests.arms == by_file)
    otherwise = int(running.sum() - kept.sum())
    mismatch = mismatch_of(requests.where(running), experiment, otherwise)
    return Assignments(kept, {requests.arm_names[arm]: at for arm, at in stopped_at.items()}, otherwise, mismatch)


def stops_of(requests: Requests, by_file: np.ndarray, control: int) -> dict[int, float]:
    """By arm that was stopped, the time since which its units are answered as control. by_file: int [requests]."""
    stops = {}
    for arm in range(len(requests.arm_names)):
        moved = requests.at[(by_file == arm) & (requests.arms == control)]
        own = requests.at[requests.arms == arm]
        if arm != control and len(moved) and not (own > moved.min() + STOP_GRACE_S).any():
            stops[arm] = float(moved.min())
    return stops


def mismatch_of(requests: Requests, experiment: Experiment, otherwise: int) -> Mismatch | None:
    """The step whose units are shared least as planned; None if all are as luck would have it."""
    names, all_weights = requests.arm_names, list(experiment.all_weights())
    steps = [step for step in range(len(all_weights)) if (requests.steps == step).any()]
    found: list[Mismatch] = []
    for step in steps:
        here = requests.where(requests.steps == step)
        units = units_by_arm(here)
        weights = all_weights[step]
        p = min(1.0, mismatch_p(units, weights) * len(steps))
        if p < MISMATCH_P:
            whole = sum(weights.values())
            expected = {name: sum(units.values()) * weights[name] / whole for name in names}
            found.append(Mismatch(step, p, units, expected, cause_of(here, weights, otherwise)))
    return min(found, key=lambda each: each.p, default=None)


def units_by_arm(requests: Requests) -> dict[str, int]:
    """How many units each arm has."""
    return {name: len(np.unique(requests.units[requests.arms == arm])) for arm, name in enumerate(requests.arm_names)}


def cause_of(requests: Requests, weights: Mapping[str, float], otherwise: int) -> str:
    """What has most likely gone wrong, for people."""
    if otherwise:
        return (
            f"{otherwise:,} requests were assigned otherwise than the fleet file says: weights or arms were edited "
            "since. Change weights by a step of `schedule`, and give an edited experiment another `seed`"
        )
    off = [
        str(router)
        for router in np.unique(requests.routers)
        if mismatch_p(units_by_arm(requests.where(requests.routers == router)), weights) < MISMATCH_P
    ]
    if len(off) == 1 and len(np.unique(requests.routers)) > 1:
        return f"only at router {off[0]}: its events of one arm are lost, or its fleet file is another"
    return (
        "requests of one arm are lost before they are written, such as by clients that give up on a slow arm, or are "
        "sent again under other ids"
    )


def mismatch_p(counts: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """p-value of the χ² test that units were assigned by these weights.

    An arm of weight 0 with units gives 0, and fewer than two arms with a weight, or no unit at all, give 1.
    """
    from scipy.stats import chisquare

    if any(count and weights.get(arm, 0.0) <= 0 for arm, count in counts.items()):
        return 0.0
    arms = [arm for arm, weight in weights.items() if weight > 0]
    total = sum(counts.get(arm, 0) for arm in arms)
    if len(arms) < 2 or not total:
        return 1.0
    whole = sum(weights[arm] for arm in arms)
    expected = [weights[arm] / whole * total for arm in arms]
    return float(chisquare([counts.get(arm, 0) for arm in arms], expected).pvalue)
