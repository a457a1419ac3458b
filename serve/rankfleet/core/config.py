"""The fleet file: one YAML file with the tiers, groups, SLO classes, experiments and limits of a fleet.

All commands read the same file, and so do the Kubernetes manifests. Unknown keys and impossible values are errors that
name the key.
"""

import math
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from rankfleet.core.autoscaling import Autoscaling
from rankfleet.core.errors import ConfigError
from rankfleet.core.experiments import Experiment
from rankfleet.core.model_ids import SHIPPED_MODELS, may_be_hub_id
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
    is_url,
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
# Keys of earlier versions and their present names, for the message that refuses them.
RENAMED = {
    "overhead_ms": "network_ms",
    "autoscaling.hold_s": "downscale_window_s",
    "autoscaling.rarely": "idle_utilisation",
    "routing.crowd_window": "arrival_window",
    "scheduling.patient_share": "best_effort_share",
    "updates.drain_s": "graceful_shutdown_timeout_s",
}
MOVED = {
    "api_key_sha256": "was moved: keys are in a file of their own now, and `tenants` has the classes; docs/keys.md"
}


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


def parse_config(settings: Any, source: str = "config") -> FleetConfig:
    """A config from plain data. Raises ConfigError that names every wrong key."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: expected a mapping with `tiers` and `groups`, found {type(settings).__name__}")
    try:
        return FleetConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from error


def read_yaml(path: Path) -> Any:
    """The data in a YAML file. Raises ConfigError if the file is missing or is not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    # PyYAML raises whatever Python raises for a date that does not exist, an integer of 5,000 digits, or deep nesting.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


def read_config(path: Path) -> FleetConfig:
    """The fleet described by a YAML file. Relative paths in it start at the file's folder; ~ is the home folder.

    Raises ConfigError if the file is missing, is not YAML, or has wrong keys or values.
    """
    config = parse_config(read_yaml(path), str(path))

    def resolved(key: str, value: str | None) -> str | None:
        try:
            return str((path.parent / Path(value).expanduser()).resolve()) if value else None
        except RuntimeError as error:
            raise ConfigError(f"{path}: {key}: {value}: the home folder is unknown; give the absolute path") from error

    tiers = {
        name: tier.model_copy(update={"model": resolved(f"tiers.{name}.model", tier.model)})
        if names_folder(tier.model, path.parent)
        else tier
        for name, tier in config.tiers.items()
    }
    search = config.search and config.search.model_copy(update={"index": resolved("search.index", config.search.index)})
    table = config.quality.table
    if table and not (SHIPPED_MODELS / table).is_file():  # that of shipped models is found wherever the package is
        table = resolved("quality.table", table)
    quality = config.quality.model_copy(update={"table": table})
    profile = resolved("profile", config.profile)
    folder = resolved("decision_log.folder", config.decision_log.folder)
    decision_log = config.decision_log.model_copy(update={"folder": folder})
    events = config.events
    if events.folder and not is_url(events.folder):
        events = events.model_copy(update={"folder": resolved("events.folder", events.folder)})
    keys = resolved("keys", config.keys)
    files = {"search": search, "quality": quality, "profile": profile, "keys": keys}
    return config.model_copy(update={"tiers": tiers, "decision_log": decision_log, "events": events} | files)


def names_folder(model: str, folder: Path) -> bool:
    """Whether a tier's `model`, in a file of this folder, is a relative path or starts with ~.

    Shipped names and hub ids are neither: they have exactly one slash. A folder that exists goes before a hub id.
    """
    if may_be_hub_id(model):
        return not (SHIPPED_MODELS / model).is_dir() and (folder / model).is_dir()
    return not model.startswith("/")


def explain(error: ValidationError, source: str, max_lines: int = 20) -> str:
    """One line per fault: its key and what is wrong. A value that may have several types is listed once."""
    lines: dict[tuple[object, ...], str] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        place, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key"
            if (now := RENAMED.get(".".join(map(str, place)))) is not None:
                message = f"was renamed to {now}"
            message = MOVED.get(str(place[-1]), message)
        where = ".".join(str(part) for part in place)
        lines.setdefault(place, f"{source}: {where + ': ' if where else ''}{message}")
    shown = list(lines.values())[:max_lines]
    if len(lines) > max_lines:
        shown.append(f"… and {len(lines) - max_lines} more")
    return "\n".join(shown)
