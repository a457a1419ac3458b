"""One budget of GPUs and CPU cores for all groups."""

from collections.abc import Mapping
from dataclasses import dataclass

# A replica that runs already is worth this much more than a new one, so that two groups do not swap it back and forth.
INCUMBENT_WEIGHT = 1.1


@dataclass(frozen=True)
class Resources:
    """GPUs and CPU cores: of one replica, or of all together."""

    gpus: float = 0.0
    cpus: float = 0.0


@dataclass(frozen=True)
class Claim:
    """What one group claims of the budget.

    desired: replicas that its own decision is for
    min_replicas: replicas that it keeps whatever the budget
    target: its present number of replicas
    need: replicas that its load takes, with fractions
    drain_s: time in which its backlog should be gone; a shorter one goes first among equals
    replica: resources of one replica
    """

    desired: int
    min_replicas: int
    target: int
    need: float
    drain_s: float
    replica: Resources


def share(claims: Mapping[str, Claim], budget: Resources) -> dict[str, int]:
    """Replicas by group, within the budget.

    Every group gets its min_replicas, even if these exceed the budget. The rest is dealt out one replica at a time by
    the highest averages method (D'Hondt): to the group with the largest need ÷ (replicas + 1), so that all come close
    to the same share of their need. A replica that does not fit any more leaves room for smaller ones.
    """
    granted = {name: min(claim.min_replicas, claim.desired) for name, claim in claims.items()}
    gpus = sum(granted[name] * claim.replica.gpus for name, claim in claims.items())
    cpus = sum(granted[name] * claim.replica.cpus for name, claim in claims.items())

    def order(name: str) -> tuple[float, float, str]:
        claim = claims[name]
        average = claim.need / (granted[name] + 1)
        return (-average * (INCUMBENT_WEIGHT if granted[name] < claim.target else 1.0), claim.drain_s, name)

    while eligible := [
        name
        for name, claim in claims.items()
        if granted[name] < claim.desired
        and gpus + claim.replica.gpus <= budget.gpus + 1e-9
        and cpus + claim.replica.cpus <= budget.cpus + 1e-9
    ]:
        name = min(eligible, key=order)
        granted[name] += 1
        gpus += claims[name].replica.gpus
        cpus += claims[name].replica.cpus
    return granted
