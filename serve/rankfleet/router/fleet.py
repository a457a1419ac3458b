"""What a router knows of the fleet: the ledgers of its groups, latency models, and how requests arrive."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rankfleet.core.config import FleetConfig
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import ArrivalMeter
from rankfleet.estimates.frontier import Frontier, TierOption, quality_range
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.precision import Precision
from rankfleet.estimates.quality import FleetQuality, fleet_quality
from rankfleet.estimates.transfer import Transfers
from rankfleet.router.ledger import Ledger
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState


class FleetView:
    """Makes the snapshots for the planner. Time is an argument, in seconds of any steady clock."""

    def __init__(
        self,
        config: FleetConfig,
        ledgers: Mapping[str, Ledger],
        models: Mapping[str, str] = MappingProxyType({}),
        before: "FleetView | None" = None,
    ) -> None:
        """ledgers: by group; shared by all versions of the fleet that a process serves.
        models: by tier, the fingerprint by which replicas report; without one they report by the tier's name.
        before: the view of the previous version of the fleet. Estimates and arrivals go on in this one.
        """
        self.ledgers = ledgers
        self._config = config
        self._models = models
        self._latency: dict[str, LatencyModel] = before._latency if before else {}
        self.quality: FleetQuality = fleet_quality(config)
        self._meter: ArrivalMeter = before._meter if before else ArrivalMeter(config.routing)
        self.transfers: Transfers = before.transfers if before else Transfers()
        self._tiers: dict[bool, tuple[TierState, ...]] = {}  # of ranked and of unordered candidates
        self.update_latency({})
        if before is None:
            self.take_over()

    def take_over(self) -> None:
        """Measure arrivals by this version's settings; the view before it is only for requests that have begun."""
        self._meter.routing = self._config.routing
        self._meter.default_slo_ms = self._config.default_slo_ms
        for ledger in self.ledgers.values():
            ledger.routing, ledger.default_slo_ms = self._config.routing, self._config.default_slo_ms

    def update_latency(self, models: Mapping[str, LatencyModel]) -> None:
        """A group has reported its latency models, by fingerprint, or by tier if it has none."""
        self._latency |= models
        for ranked in (False, True):
            quality = self.quality.table(ranked).tiers
            self._tiers[ranked] = tuple(
                TierState(name, quality[name], self._config.group_of(name), self.latency(name))
                for name in self._config.tiers
            )

    def use_profile(self, models: Mapping[str, LatencyModel]) -> None:
        """Use a stored profile, by tier, for tiers that no replica has reported yet."""
        by_name = {self._models.get(tier, tier): model for tier, model in models.items()}
        self.update_latency({name: model for name, model in by_name.items() if name not in self._latency})

    def latency(self, tier: str) -> LatencyModel | None:
        """None if it is not known."""
        return self._latency.get(self._models.get(tier, tier))

    def precision(self, tier: str) -> Precision | None:
        """What running replicas compute a tier in; None if none has reported it."""
        return self.ledgers[self._config.group_of(tier)].precisions.get(self._models.get(tier, tier))

    @property
    def models(self) -> dict[str, LatencyModel]:
        """The latency models that are known, by tier."""
        return {tier: model for tier in self._config.tiers if (model := self.latency(tier)) is not None}

    @property
    def own_quality(self) -> Mapping[str, float]:
        """By tier, for requests that do not say how their candidates come. Replicas select tiers by it."""
        return self.quality.table(self._config.ranked).tiers

    @property
    def ready(self) -> bool:
        """Whether the latency of every tier is known whose group keeps a replica running."""
        groups = [group for group in self._config.groups.values() if group.replicas.min > 0]
        return all(self.latency(tier) is not None for group in groups for tier in group.tiers)

    def frontier(self, tiers: Sequence[str], work: Work) -> Frontier | None:
        """The tiers of one group that are worth their time for a chunk, as its replica sees them; None if none of them
        is measured."""
        group, quality = self._config.groups[self._config.group_of(tiers[0])], self.own_quality
        options = [
            TierOption(tier, quality[tier], *model.cost(work, group.batch_tokens))
            for tier in tiers
            if (model := self.latency(tier)) is not None
        ]
        return Frontier.of(options, quality_range(quality[tier] for tier in group.tiers)) if options else None

    def beside_ms(self, now_s: float, others: int | None = None) -> float:
        """What is left to do beside queue and engine once a stage begins: the way to the replica and back, and to the
        client. others: as in `transfer_ms`."""
        return self.transfer_ms(now_s, others) + self._config.network_ms

    def transfer_ms(self, now_s: float, others: int | None = None) -> float:
        """What a chunk that is sent now takes between router and replica, there and back. others: requests on the way
        beside that of the chunk; by default all that are."""
        return self.transfers.ms(self.transfers.requests if others is None else others, now_s)

    def request_arrived(self, budget_ms: float | None, tokens: int, now_s: float) -> None:
        """A request has arrived; budget_ms: None for best-effort work. tokens: of its pairs."""
        self._meter.arrived(math.inf if budget_ms is None else budget_ms, now_s, tokens, found_idle=not self.busy)

    @property
    def busy(self) -> bool:
        """Whether this router has any work in flight."""
        return any(ledger.busy for ledger in self.ledgers.values())

    @property
    def asleep(self) -> bool:
        """Whether no group has a replica or keeps one."""
        return all(self.ledgers[name].asleep(group.replicas.min) for name, group in self._config.groups.items())

    def awake(self, group: str) -> bool:
        """Whether a call to this group would be answered without a replica having to start, as far as is known."""
        return self.ledgers[group].awake(self._config.groups[group].replicas.min)

    def replicas(self, group: str, now_s: float) -> int:
        """How many replicas of this group take work, at least 1."""
        return self.ledgers[group].ready(now_s, self._config.groups[group].replicas.min)

    def backlog_s(self, group: str, now_s: float) -> float:
        """Predicted seconds until a replica of this group would be free."""
        return self.ledgers[group].backlog_s(self.replicas(group, now_s), now_s)

    def snapshot(self, now_s: float, ranked: bool | None = None) -> FleetSnapshot:
        """Everything that a decision uses besides the request. ranked: whether its candidates come in a retriever's
        order; None for what the fleet file says."""
        config = self._config
        ranked = config.ranked if ranked is None else ranked
        return FleetSnapshot(
            self._tiers[ranked],
            {name: self._state(name, now_s) for name in config.groups},
            config.network_ms,
            self.transfer_ms(now_s),
            self.quality.table(ranked),
            config.routing,
            config.autoscaling.start_s,
        )

    def _state(self, name: str, now_s: float) -> GroupState:
        group, ledger = self._config.groups[name], self.ledgers[name]
        replicas = self.replicas(name, now_s)
        whole_tokens = group.batch_tokens if len(group.tiers) > 1 else 0
        arrivals = self._meter.at(now_s)
        # A request that stays whole goes to one replica; one that is cut sends a part to each of them.
        if whole_tokens:
            arrivals = arrivals.at_one_of(replicas)
        return GroupState(
            replicas,
            ledger.backlog_s(replicas, now_s),
            ledger.in_flight,
            ledger.busy_since_s,
            whole_tokens,
            arrivals,
            ledger.asleep(group.replicas.min),
            group.batch_tokens,
        )
