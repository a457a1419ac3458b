"""One budget of GPUs and CPU cores for all groups."""

from collections.abc import Mapping
from dataclasses import dataclass

LOYALTY = 1.1  # a replica that is there already counts for so much more, so that two groups do not swap it to and fro


@dataclass(frozen=True)
class Unit:
    """What one replica takes, or what all may take together."""

    gpus: float = 0.0
    cpus: float = 0.0


@dataclass(frozen=True)
class Claim:
    """What a group asks for. least: what it has in any case; target: as it stands; need: in replicas, with
    fractions; drain_s: the shorter, the more urgent."""

    wanted: int
    min_replicas: int
    target: int
    need: float
    drain_s: float
    unit: Unit


def share(claims: Mapping[str, Claim], budget: Unit) -> dict[str, int]:
    """Replicas by group.

    Every group gets its least, though that may be more than the budget. What is left is dealt out one replica at a
    time to the group in which it is needed most: need ÷ (replicas + 1), the highest average, so that all come close
    to the same share of their need; among equals to the one whose SLO is tighter. A replica that does not fit any
    more leaves room for smaller ones.
    """
    given = {name: min(claim.min_replicas, claim.wanted) for name, claim in claims.items()}
    gpus = sum(given[name] * claim.unit.gpus for name, claim in claims.items())
    cpus = sum(given[name] * claim.unit.cpus for name, claim in claims.items())

    def urgency(name: str) -> tuple[float, float, str]:
        claim = claims[name]
        average = claim.need / (given[name] + 1)
        return (-average * (LOYALTY if given[name] < claim.target else 1.0), claim.drain_s, name)

    while open_to := [
        name
        for name, claim in claims.items()
        if given[name] < claim.wanted
        and gpus + claim.unit.gpus <= budget.gpus + 1e-9
        and cpus + claim.unit.cpus <= budget.cpus + 1e-9
    ]:
        name = min(open_to, key=urgency)
        given[name] += 1
        gpus += claims[name].unit.gpus
        cpus += claims[name].unit.cpus
    return given
