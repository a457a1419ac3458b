"""The settings of a fleet: its tiers, groups, SLO classes, experiments and limits, as a fleet file has them."""

import math
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rankfleet.core.autoscaling import Autoscaling
from rankfleet.core.experiments import Experiment
from rankfleet.core.passages import LongDocuments
from rankfleet.core.sections import (
    AUTO,
    UNSCORED,
    CandidateOrder,
    ClassName,
    DecisionLog,
    Events,
    Group,
    Limits,
    Name,
    Origin,
    Quality,
    Replicas,
    Routing,
    Scheduling,
    Search,
    Section,
    SloClass,
    Tenant,
    Tier,
    Updates,
)


class LiveSettings(Section):
    """The keys that only routers read, so that a change of them does not reach replicas of groups."""

    default_model: Name = Field(
        AUTO, description="what requests without `model` get: a tier, or `auto` for the planner's choice"
    )
    slo_classes: dict[ClassName, SloClass] = Field(
        {},
        description="latency budgets by name; a request names one as `slo_class` or `model`, so that a class may be "
        "called like the model that a client asks for",
    )
    default_slo_class: ClassName | None = Field(
        None, description="SLO class of requests that name none; null for best effort"
    )
    keys: str | None = Field(
        None,
        description="file of API keys (`rankfleet keys new`), read again when it changes; null: no request needs a key",
    )
    tenants: dict[Name, Tenant] = Field(
        {}, description="what the tenants of the keys may do; if any is named here, the keys of others are refused"
    )
    cors_origins: list[Origin] = Field(
        [],
        description="origins of web pages that may call the API from a browser (https://app.example.org); empty: none",
    )
    long_documents: LongDocuments = Field(
        "truncate",
        description="for documents longer than a pair may be: score the beginning, or every passage and take the best",
    )
    passage_overlap_tokens: int = Field(
        32,
        ge=0,
        description="tokens that neighbouring passages share, so that a sentence at a cut is whole in one of them",
    )
    experiments: dict[Name, Experiment] = Field(
        {}, description="A/B splits by name; a request takes part in the first that applies"
    )
    autoscaling: Autoscaling = Field(Autoscaling(), description="how many replicas each group gets")
    decision_log: DecisionLog = Field(DecisionLog(), description="routing decisions written to files")
    events: Events = Field(Events(), description="what became of each request, and feedback, written to files")


# Keys that become options of a deployment in Serve's config, so that a change touches that deployment alone: of the
# file, and of each group.
OPTIONS = ("autoscaling", "updates", "routers", "router_cpus")
GROUP_OPTIONS = {"replicas", "cpus", "gpus", "resources", "in_router"}
# Names that a tier or a group may not have. The router is a deployment beside the groups, and its constructor takes
# each group as a keyword argument.
RESERVED_NAMES = [("tier", AUTO), ("tier", UNSCORED), ("group", "config"), ("group", "router"), ("group", "self")]


class FleetConfig(LiveSettings):
    """A whole fleet file."""

    tiers: dict[Name, Tier] = Field(min_length=1, description="rerankers by name")
    groups: dict[Name, Group] = Field(
        min_length=1, description="replica groups by name; every tier belongs to one group"
    )
    limits: Limits = Field(Limits(), description="limits of one request, and of all in flight")
    updates: Updates = Field(Updates(), description="how new replicas replace old ones")
    candidates: CandidateOrder = Field(
        "unordered",
        description="how requests list their documents: `ranked`, in the order of the retriever that found them, which "
        "then counts beside a tier's scores; or `unordered`. A request may say otherwise",
    )
    quality: Quality = Field(Quality(), description="what is known about quality besides one figure per tier")
    routing: Routing = Field(Routing(), description="how far ahead replicas plan")
    scheduling: Scheduling = Field(Scheduling(), description="how a replica orders its work")
    search: Search | None = Field(None, description="the index behind /v1/search; null for none")
    profile: str | None = Field(
        None, description="latency profile that `rankfleet profile` has written; null: replicas measure when they start"
    )
    routers: int = Field(1, ge=1, description="number of router replicas")
    router_cpus: float = Field(
        0.5, ge=0, description="CPU cores reserved per router replica, without those of groups with `in_router`"
    )
    token_cache_mb: float = Field(
        64.0,
        ge=0,
        description="memory per router replica for token ids of documents seen before, in MB; 0 for no cache",
    )
    network_ms: float = Field(
        3.0,
        ge=0,
        description="time between client and router, there and back, which the router cannot see, in milliseconds",
    )

    @field_validator("tiers", "groups")
    @classmethod
    def _no_reserved_names(cls, named: dict[str, Section], info: ValidationInfo) -> dict[str, Section]:
        for kind, name in RESERVED_NAMES:
            if info.field_name == f"{kind}s" and name in named:
                raise ValueError(f"{name!r} is reserved; give the {kind} another name")
        return named

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        hosted: dict[str, str] = {}
        for group, settings in self.groups.items():
            for tier in settings.tiers:
                if tier not in self.tiers:
                    raise ValueError(
                        f"groups.{group} hosts {tier!r}, which is not under tiers: {', '.join(self.tiers)}"
                    )
                if tier in hosted:
                    raise ValueError(f"tier {tier!r} is in groups {hosted[tier]} and {group}; keep it in one")
                hosted[tier] = group
        if unhosted := [tier for tier in self.tiers if tier not in hosted]:
            raise ValueError(f"no group hosts {', '.join(unhosted)}; add the tier to a group or remove it")
        check_live(self, set(self.tiers), set(self.groups))
        if unscaled := sorted(set(self.autoscaling.groups) - set(self.deployed)):
            raise ValueError(f"autoscaling.groups: {', '.join(unscaled)} is hosted in the router and not scaled apart")
        if self.quality.retriever > 0 and not self.ranked:
            raise ValueError(
                "quality.retriever is the quality of the order in which documents come; add `candidates: ranked` at "
                "the top level, or remove it"
            )
        return self

    @property
    def ranked(self) -> bool:
        """Whether documents come in a retriever's order, unless a request says otherwise."""
        return self.candidates == "ranked"

    def group_of(self, tier: str) -> str:
        """The one group that hosts this tier."""
        return next(name for name, group in self.groups.items() if tier in group.tiers)

    @property
    def deployed(self) -> dict[str, Group]:
        """The groups with replicas of their own, each a deployment; the others are hosted in the router."""
        return {name: group for name, group in self.groups.items() if not group.in_router}

    def replicas_of(self, group: str) -> Replicas:
        """How many replicas of a group may run, in all routers together where these host it."""
        settings = self.groups[group]
        return Replicas(min=self.routers, max=self.routers) if settings.in_router else settings.replicas

    @property
    def cpus_per_router(self) -> float:
        """CPU cores that a router reserves, with those of the groups that it hosts."""
        return self.router_cpus + sum(group.cpus for group in self.groups.values() if group.in_router)

    @property
    def default_slo_ms(self) -> float:
        """The budget of the default SLO class; infinity if there is none, or it has none."""
        default = self.slo_classes.get(self.default_slo_class or "")
        return math.inf if default is None or default.slo_ms is None else default.slo_ms

    @property
    def for_groups(self) -> dict[str, Any]:
        """The keys that replicas of groups need, as plain data.

        Leaves out live settings and the options that Serve gets separately, so that a change of these does not reach
        replicas.
        """
        left_out: dict[str, Any] = dict.fromkeys(LiveSettings.model_fields, True) | dict.fromkeys(OPTIONS, True)
        return self.model_dump(mode="json", exclude=left_out | {"groups": {"__all__": GROUP_OPTIONS}})

    @property
    def live(self) -> LiveSettings:
        return LiveSettings(**{name: getattr(self, name) for name in LiveSettings.model_fields})


def check_live(live: LiveSettings, tiers: set[str], groups: set[str]) -> None:
    """Raises ValueError if live settings name something that does not exist."""
    models = tiers | {AUTO}
    if live.default_model not in models:
        raise ValueError(f"default_model {live.default_model!r} is none of {', '.join(sorted(models))}")
    if live.default_slo_class is not None and live.default_slo_class not in live.slo_classes:
        raise ValueError(f"default_slo_class {live.default_slo_class!r} is not under slo_classes")
    if both := sorted(models & set(live.slo_classes)):
        raise ValueError(f"{', '.join(both)}: an SLO class may not have the name of a tier, nor `auto`")
    if unknown := sorted(set(live.autoscaling.groups) - groups):
        raise ValueError(f"autoscaling.groups: no group is named {', '.join(unknown)}")
    for name, tenant in live.tenants.items():
        for kind, known in (("slo_classes", live.slo_classes), ("tiers", tiers)):
            if unknown := sorted(set(getattr(tenant, kind) or ()).difference(known)):
                raise ValueError(f"tenants.{name}.{kind}: {', '.join(unknown)} is none of {', '.join(sorted(known))}")
    if (shares := sum(tenant.share or 0.0 for tenant in live.tenants.values())) > 1 + 1e-9:
        raise ValueError(f"tenants: the shares add up to {shares:g}, which is more than the fleet")
    for name, experiment in live.experiments.items():
        if live.tenants and (unknown := sorted(set(experiment.tenants or ()) - set(live.tenants))):
            raise ValueError(f"experiments.{name}.tenants: {', '.join(unknown)} is not under tenants")
        for arm, settings in experiment.arms.items():
            where = f"experiments.{name}.arms.{arm}"
            for tier in settings.named_tiers:
                if tier not in tiers:
                    raise ValueError(f"{where}: no tier is named {tier!r}; there are {', '.join(sorted(tiers))}")
            if settings.slo_class is not None and settings.slo_class not in live.slo_classes:
                raise ValueError(f"{where}: slo_class {settings.slo_class!r} is not under slo_classes")
