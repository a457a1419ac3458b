"""A/B splits: which arm a user or session belongs to.

A unit is hashed with the experiment's name and seed into one of 10,000 buckets, and the arms share the
buckets by weight in the order they are written. The hash is SHA-256, so every router replica, restart and
machine agrees; and a change of weights moves only the units whose buckets change hands.
"""

import hashlib

from rankfleet.core.messages import Assignment, RerankRequest
from rankfleet.core.sections import Experiment

BUCKETS = 10_000


def bucket(experiment: str, seed: str, unit: str) -> int:
    """0 to 9,999, uniform over units and independent between experiments."""
    digest = hashlib.sha256("\0".join((experiment, seed, unit)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def arm_of(name: str, experiment: Experiment, unit: str) -> str:
    """The arm of one unit."""
    total = sum(arm.weight for arm in experiment.arms.values())
    place = (bucket(name, experiment.seed, unit) + 0.5) / BUCKETS * total
    reached = 0.0
    for arm, settings in experiment.arms.items():
        reached += settings.weight
        if place < reached:
            return arm
    return next(reversed([a for a, s in experiment.arms.items() if s.weight > 0]))


def assign(experiments: dict[str, Experiment], request: RerankRequest) -> Assignment | None:
    """The arm of the first experiment whose unit (user or session) the request names; None if there is none."""
    for name, experiment in experiments.items():
        unit = request.user if experiment.unit == "user" else request.session
        if unit is not None:
            arm = arm_of(name, experiment, unit)
            return Assignment(name, arm, experiment.arms[arm].model)
    return None
