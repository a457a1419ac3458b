"""A/B splits: which arm a user, session or other unit belongs to.

A unit is hashed with the experiment's name and seed into one of 10,000 buckets. The hash is SHA-256, and the arms'
buckets follow from the fleet file and the time alone, so every router replica, restart and machine agrees.
"""

import hashlib
from collections.abc import Container, Mapping
from types import MappingProxyType

import numpy as np

from rankfleet.core.config import LiveSettings
from rankfleet.core.experiment_state import NO_STATE, ExperimentState
from rankfleet.core.experiments import NO_CHANGE, Experiment
from rankfleet.core.messages import Assignment, RerankRequest

BUCKETS = 10_000


def unit_hash(experiment: str, seed: str, unit: str) -> str:
    """16 hex digits that stand for a unit in one experiment. unit: its id."""
    return hashlib.sha256("\0".join((experiment, seed, unit)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bucket(unit: str) -> int:
    """0 to 9,999, uniform over units and independent between experiments. unit: as `unit_hash` returns it."""
    return int(unit, 16) % BUCKETS


def bucket_counts(weights: Mapping[str, float]) -> list[int]:
    """How many buckets each arm gets: its share, rounded so that they add up to all buckets (largest remainders)."""
    total = sum(weights.values())
    exact = [weight / total * BUCKETS for weight in weights.values()]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda arm: (counts[arm] - exact[arm], arm))
    for arm in by_remainder[: BUCKETS - sum(counts)]:
        counts[arm] += 1
    return counts


def bucket_tables(experiment: Experiment) -> list[np.ndarray]:
    """uint8 [buckets] of arms, by their place in the file: at first, and after each step of the schedule.

    A step takes buckets from the arms that shrink, the highest first, and gives them to those that grow, so that it
    moves as few as possible.
    """
    tables: list[np.ndarray] = []
    for weights in experiment.all_weights():
        counts = bucket_counts(weights)
        if not tables:
            tables.append(np.repeat(np.arange(len(counts), dtype=np.uint8), counts))
            continue
        table = tables[-1].copy()
        change = np.array(counts) - np.bincount(table, minlength=len(counts))
        freed = [np.flatnonzero(table == arm)[change[arm] :] for arm in np.flatnonzero(change < 0)]
        grown = np.flatnonzero(change > 0)
        if freed:
            table[np.concatenate(freed)] = np.repeat(grown.astype(np.uint8), change[grown])
        tables.append(table)
    return tables


class Split:
    """One experiment with its buckets."""

    def __init__(
        self, name: str, experiment: Experiment, states: Mapping[str, ExperimentState] = MappingProxyType({})
    ) -> None:
        """states: as in `Splits`."""
        self.name, self.experiment = name, experiment
        self.identity = experiment.identity(name)
        self._states = states
        self._arms = list(experiment.arms)
        self._tables = bucket_tables(experiment)
        self._times_s = [step.at.timestamp() for step in experiment.schedule]
        arms = experiment.arms.values()
        self._sets_slo = any(arm.slo_class is not None for arm in arms)
        self._sets_fusion = any(arm.fusion_weight is not None for arm in arms)

    @property
    def state(self) -> ExperimentState:
        """What all routers together have seen of it."""
        return self._states.get(self.identity, NO_STATE)

    def step(self, unix_s: float) -> int:
        """How many steps of the schedule have passed."""
        return sum(at_s <= unix_s for at_s in self._times_s)

    def shares(self, step: int) -> dict[str, float]:
        """The share of the buckets that each arm has by its weight, after this step of the schedule."""
        counts = np.bincount(self._tables[step], minlength=len(self._arms))
        return {arm: int(count) / BUCKETS for arm, count in zip(self._arms, counts, strict=True)}

    def stopped(self) -> dict[str, str]:
        """By arm that is stopped, by the file or for being worse than the control, the reason."""
        by_file = {arm: "by the fleet file" for arm, settings in self.experiment.arms.items() if settings.stopped}
        return {**self.state.stopped, **by_file}

    def assign(self, unit: str, unix_s: float) -> Assignment:
        """The arm of one unit: that of its bucket, or the control where that arm is stopped. The buckets of a stopped
        arm stay its own, so that no other unit moves.

        unit: its id. unix_s: seconds since 1970 by the router's wall clock, which the schedule goes by.
        """
        unit, step = unit_hash(self.name, self.experiment.seed, unit), self.step(unix_s)
        arm = self._arms[self._tables[step][bucket(unit)]]
        if self.experiment.arms[arm].stopped or arm in self.state.stopped:
            arm = self.experiment.control_arm
        return Assignment(self.name, arm, unit, self.experiment.arms[arm], step)

    def unit_of(self, request: RerankRequest, names_slo: bool) -> str | None:
        """The id that decides the arm; None if the request takes no part.

        That is so without an id, where the experiment names tenants and not this one, and if the client itself says
        what an arm would set: a tier, or a class or budget where arms set classes, or whether candidates are ranked
        where arms set the weight of that. Its wish counts, and leaving it out of every arm keeps them alike.

        names_slo: whether it names a class or budget.
        """
        experiment = self.experiment
        own_choice = (self._sets_slo and names_slo) or (self._sets_fusion and request.candidates is not None)
        left_out = experiment.tenants is not None and request.tenant not in experiment.tenants
        if experiment.stopped or left_out or own_choice:
            return None
        match experiment.unit:
            case "user":
                unit = request.user
            case "session":
                unit = request.session
            case "key":
                unit = request.tenant
            case "query":
                unit = "\n".join(request.each_query)
            case "header":
                unit = request.headers.get(experiment.header or "")
        return unit or None


class Splits:
    """All experiments of a fleet."""

    def __init__(
        self,
        live: LiveSettings,
        tiers: Container[str],
        states: Mapping[str, ExperimentState] = MappingProxyType({}),
    ) -> None:
        """tiers: of the fleet. states: by `Experiment.identity`; what it says at the time counts."""
        self._slo_classes, self._tiers = live.slo_classes, tiers
        every = [Split(name, experiment, states) for name, experiment in live.experiments.items()]
        self.splits = [split for split in every if split.experiment.mode == "split"]
        self.shadows = [split for split in every if split.experiment.mode == "shadow"]
        headers = {split.experiment.header for split in every}
        self.headers: tuple[str, ...] = tuple(sorted(name for name in headers if name is not None))

    def assign(self, request: RerankRequest, unix_s: float) -> Assignment | None:
        """The arm of the first experiment that the request takes part in; None if there is none.

        A request that names a tier takes part in none. unix_s: as in `Split.assign`.
        """
        return self._first(self.splits, request, unix_s)

    def shadow(self, request: RerankRequest, unix_s: float) -> Assignment | None:
        """The arm that a request's answer is compared with; None if there is none, or the arm changes nothing."""
        found = self._first(self.shadows, request, unix_s)
        return found if found is not None and found.settings.summary != NO_CHANGE else None

    def _first(self, splits: list[Split], request: RerankRequest, unix_s: float) -> Assignment | None:
        if not splits or request.model in self._tiers:
            return None
        named = (request.slo_ms, request.slo_class, request.model if request.model in self._slo_classes else None)
        names_slo = any(each is not None for each in named)
        for split in splits:
            unit = split.unit_of(request, names_slo)
            if unit is not None:
                return split.assign(unit, unix_s)
        return None
