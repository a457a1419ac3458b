"""One file describes a fleet: tiers, groups, SLO classes, experiments and limits.

The same file feeds `serve`, `rank`, `profile`, `evaluate` and the Kubernetes manifests. Unknown keys and
impossible values are errors that name the key.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rankfleet.core.errors import ConfigError
from rankfleet.core.layout import LongDocuments

AUTO = "auto"  # the model name that leaves the choice to the planner
NONE = "none"  # the tier of an answer that nothing has scored
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """A part of the file: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tier(Section):
    """One reranker at one size."""

    model: str = Field(description="a shipped name (demo/small), a folder, or a hub id")
    revision: str | None = Field(None, description="commit of the hub repository, pinned")
    quality: float = Field(ge=0, le=1, description="nDCG@10; published, or your own from `rankfleet evaluate`")
    max_tokens: int | None = Field(None, ge=8, description="longest pair scored, at most what the model takes")


class Replicas(Section):
    """How many replicas of a group may run."""

    min: int = Field(1, ge=0, description="never fewer; 0 lets an idle group go")
    max: int = Field(1, ge=1, description="never more")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Group(Section):
    """Replicas that host the same tiers on the same kind of device: one Ray Serve deployment."""

    tiers: list[Name] = Field(min_length=1, description="tiers that each replica hosts")
    replicas: Replicas = Field(Replicas(), description="autoscaled where min and max differ")
    cpus: float = Field(1.0, ge=0, description="CPU cores reserved for each replica; fractions are fine")
    gpus: float = Field(0.0, ge=0, description="GPUs reserved for each replica; fractions are fine")
    threads: int = Field(1, ge=1, description="torch threads of each replica on a CPU")
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="precision of products; auto: bfloat16 where the device is fast at it; int8: CPUs with VNNI"
    )
    batch_tokens: int = Field(16384, ge=64, description="most tokens in one device batch")
    resources: dict[str, float] = Field({}, description="custom Ray resources each replica needs")


class SloClass(Section):
    """A latency budget with a name."""

    slo_ms: float | None = Field(None, gt=0, description="budget per request; null for none")
    when_none_fits: Literal["degrade", "refuse"] = Field(
        "degrade", description="leave out tokens, candidates, or the whole scoring; or 429 with Retry-After"
    )
    api_key_sha256: list[Sha256] = Field([], description="SHA-256 of API keys whose requests get this class")


class Arm(Section):
    """One side of an experiment."""

    model: Name = Field(description="a tier, or `auto`")
    weight: float = Field(ge=0, description="share of the units, relative to the other arms")


class Experiment(Section):
    """A split of traffic between models, by a hash of the unit's id."""

    unit: Literal["user", "session"] = Field("user", description="the request field that is hashed")
    seed: str = Field("1", description="change it to deal the units anew")
    arms: dict[Name, Arm] = Field(min_length=1, description="the sides, by name")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if sum(arm.weight for arm in self.arms.values()) <= 0:
            raise ValueError("all weights are 0; give at least one arm some weight")
        return self


class Limits(Section):
    """What one request may ask for."""

    max_documents: int = Field(1000, ge=1, description="documents of one request")
    max_document_bytes: int = Field(1_000_000, ge=1, description="UTF-8 bytes of one document")
    max_query_bytes: int = Field(32_000, ge=1, description="UTF-8 bytes of a query")
    max_passages: int = Field(16, ge=1, description="passages of one document; what is beyond them is cut")
    max_body_bytes: int = Field(64_000_000, ge=1, description="bytes of one HTTP body")


class GroupScaling(Section):
    """Where one group scales otherwise than the rest."""

    utilisation: float | None = Field(None, gt=0, le=10, description="in place of the fleet's `utilisation`")
    drain_s: float | None = Field(None, gt=0, description="in place of the fleet's `drain_s`")


class Autoscaling(Section):
    """When groups grow and shrink. Demand and backlog are seconds of work at the tiers that requests would get on an
    idle fleet. Changes take effect without a restart. docs/autoscaling.md has the formula."""

    utilisation: float = Field(
        0.7, gt=0, le=10, description="share of a replica's time that demand is to take; above 1 is for lesser tiers"
    )
    drain_s: float | None = Field(
        None, gt=0, description="in what time a backlog has to be worked off; null: `drain_share` of the SLO classes"
    )
    drain_share: float = Field(
        0.5, gt=0, le=1, description="of the shortest budget that a group can serve: its `drain_s` where none is given"
    )
    start_s: float = Field(
        20.0, ge=0, description="from a decision to a replica that scores; no drain is planned faster"
    )
    stable_s: float = Field(60.0, gt=0, description="window over which demand is averaged")
    panic_s: float = Field(6.0, gt=0, description="window in which a surge is looked for")
    panic_threshold: float = Field(
        2.0, gt=1, description="demand of the panic window ÷ what runs, from which on nothing shrinks"
    )
    panic_hold_s: float = Field(
        300.0, ge=0, description="for how long after a surge nothing shrinks: surges come in series"
    )
    hold_s: float = Field(120.0, ge=0, description="a group shrinks to what it needed at most within this time")
    cooldown_s: float = Field(30.0, ge=0, description="after it has grown a group does not shrink for this long")
    margin: float = Field(0.1, ge=0, lt=1, description="what must be spare, beyond the need, for a group to shrink")
    idle_s: float = Field(
        300.0, gt=0, description="a group with `replicas.min` 0 is let go when rarely used for this long"
    )
    rarely: float = Field(
        0.05, ge=0, lt=1, description="up to this share of one replica's time a group counts as rarely used"
    )
    max_gpus: float | None = Field(
        None, ge=0, description="GPUs that all autoscaled groups may take; null for no limit"
    )
    max_cpus: float | None = Field(None, ge=0, description="CPU cores that they may take; null for no limit")
    groups: dict[Name, GroupScaling] = Field({}, description="by group, what differs from the above")

    def utilisation_of(self, group: str) -> float:
        own = self.groups.get(group)
        return self.utilisation if own is None or own.utilisation is None else own.utilisation

    def drain_of(self, group: str) -> float | None:
        own = self.groups.get(group)
        return self.drain_s if own is None or own.drain_s is None else own.drain_s


class Updates(Section):
    """How replicas go when others take their place."""

    surge_percent: int = Field(
        25,
        ge=0,
        le=100,
        description="replicas started before old ones stop, as a share of the group and at least one; 0 for none",
    )
    drain_s: float = Field(30.0, gt=0, description="how long a replica that goes may take to finish its work")

    def at_most(self, replicas: int) -> int:
        """How many there may be while some take the place of others."""
        return replicas + -(-replicas * self.surge_percent // 100)


class Quality(Section):
    """Where the planner's figures of quality come from. Without a table, one figure per tier: `tiers.NAME.quality`."""

    retriever: float = Field(0.0, ge=0, le=1, description="nDCG@10 of the order that requests come in")
    table: str | None = Field(None, description="JSON file of nDCG@10 by data set, tier, depth and cascade")
    data_set: str | None = Field(
        None, description="the data set in the table that is like your traffic; else its first"
    )


class Routing(Section):
    """How far ahead work is planned: until when everything that waits at a replica has to be done.

    The horizon is the longer of two: the time in which `expected_arrivals` more requests come, judged by how
    crowded it was when others came, and `horizon` × the typical budget × price ** `horizon_exponent`. The price
    is what the next larger tier gains, as a share of the range of qualities, per typical budget of device time.
    docs/routing.md derives it and shows what each setting does.
    """

    expected_arrivals: float = Field(
        0.5, gt=0, description="a replica may plan for the time in which so many further requests come"
    )
    horizon: float = Field(0.22, gt=0, description="share of the typical budget in which a backlog has to drain")
    horizon_exponent: float = Field(
        0.63, ge=0, lt=1, description="how much longer that may take where a larger tier gains much: 0 for not at all"
    )
    crowd_window: float = Field(0.2, gt=0, description="window for the rate of arrivals, in typical budgets")
    memory_s: float = Field(30.0, gt=0, description="how long budgets and crowds seen are remembered")


class Scheduling(Section):
    """What a replica's queue does besides deadlines. docs/batching.md has the rules."""

    patient_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of a replica's time for work without a deadline while it waits; 0: only when idle otherwise",
    )


class Search(Section):
    """First stage of /v1/search."""

    index: str = Field(description="folder written by `rankfleet index build`")
    top_k: int = Field(100, ge=1, description="candidates handed to the reranker")


class LiveSettings(Section):
    """What can change without restarting a replica: Serve hands it over as `user_config`."""

    default_model: Name = Field(AUTO, description="what a request without `model` gets: a tier, or `auto`")
    slo_classes: dict[Name, SloClass] = Field({}, description="budgets by name; the name can be sent as `model`")
    default_slo_class: Name | None = Field(None, description="the class of requests that name none; null for no budget")
    long_documents: LongDocuments = Field(
        "truncate", description="of documents beyond the pair limit: score the beginning, or the best passage"
    )
    passage_overlap_tokens: int = Field(
        32, ge=0, description="shared by neighbouring passages, so that a sentence at a cut is whole in one of them"
    )
    experiments: dict[Name, Experiment] = Field({}, description="A/B splits by name; the first that applies counts")
    autoscaling: Autoscaling = Field(Autoscaling(), description="when groups grow and shrink")


# What Serve takes as options of a deployment, so that a change touches that deployment alone.
OPTIONS = ("autoscaling", "updates", "routers", "router_cpus")
GROUP_OPTIONS = {"replicas", "cpus", "gpus", "resources"}


class FleetConfig(LiveSettings):
    """The whole file."""

    tiers: dict[Name, Tier] = Field(min_length=1, description="rerankers by name")
    groups: dict[Name, Group] = Field(min_length=1, description="replica groups by name; every tier has one home")
    limits: Limits = Field(Limits(), description="what one request may ask for")
    updates: Updates = Field(Updates(), description="how replicas go when others take their place")
    quality: Quality = Field(Quality(), description="what is known of quality beyond one figure per tier")
    routing: Routing = Field(Routing(), description="how far ahead replicas plan")
    scheduling: Scheduling = Field(Scheduling(), description="what a replica does next")
    search: Search | None = Field(None, description="the index behind /v1/search")
    profile: str | None = Field(None, description="latency profile written by `rankfleet profile`")
    routers: int = Field(1, ge=1, description="replicas of the router itself")
    router_cpus: float = Field(0.5, ge=0, description="CPU cores reserved for each router replica")
    token_cache_mb: float = Field(
        64.0, ge=0, description="memory of each router for token ids of documents seen before; 0 for none"
    )
    overhead_ms: float = Field(3.0, ge=0, description="time per request outside of queue and engine")

    @field_validator("tiers")
    @classmethod
    def _no_reserved_names(cls, tiers: dict[str, Tier]) -> dict[str, Tier]:
        for name in (AUTO, NONE):
            if name in tiers:
                raise ValueError(f"{name!r} is reserved; name the tier otherwise")
        return tiers

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
                    raise ValueError(f"tier {tier!r} is in groups {hosted[tier]} and {group}; give it one home")
                hosted[tier] = group
        if homeless := [t for t in self.tiers if t not in hosted]:
            raise ValueError(f"no group hosts {', '.join(homeless)}; add the tier to a group or remove it")
        check_live(self, set(self.tiers), set(self.groups))
        return self

    def group_of(self, tier: str) -> str:
        """The one group that hosts this tier."""
        return next(name for name, group in self.groups.items() if tier in group.tiers)

    @property
    def fixed(self) -> dict[str, Any]:
        """As plain data, all that replicas are built from: a change of it rolls every replica. The live settings and
        the options that Serve takes beside (`core/deployments.py`) are not in it."""
        outside: dict[str, Any] = dict.fromkeys(LiveSettings.model_fields, True) | dict.fromkeys(OPTIONS, True)
        return self.model_dump(mode="json", exclude=outside | {"groups": {"__all__": GROUP_OPTIONS}})

    @property
    def live(self) -> LiveSettings:
        return LiveSettings(**{name: getattr(self, name) for name in LiveSettings.model_fields})


def check_live(live: LiveSettings, tiers: set[str], groups: set[str]) -> None:
    """Raise ValueError where live settings name something that does not exist."""
    models = tiers | {AUTO}
    if live.default_model not in models:
        raise ValueError(f"default_model {live.default_model!r} is none of {', '.join(sorted(models))}")
    if live.default_slo_class is not None and live.default_slo_class not in live.slo_classes:
        raise ValueError(f"default_slo_class {live.default_slo_class!r} is not under slo_classes")
    if both := sorted(models & set(live.slo_classes)):
        raise ValueError(f"{', '.join(both)}: an SLO class may not have the name of a tier or `auto`")
    if unknown := sorted(set(live.autoscaling.groups) - groups):
        raise ValueError(f"autoscaling.groups: no group is named {', '.join(unknown)}")
    for name, experiment in live.experiments.items():
        for arm, settings in experiment.arms.items():
            if settings.model not in models:
                raise ValueError(f"experiments.{name}.arms.{arm}: no tier is named {settings.model!r}")


def parse_live(settings: dict[str, Any], fleet: "FleetConfig") -> LiveSettings:
    """Live settings of a fleet as they come from `user_config`. Raises ConfigError."""
    try:
        live = LiveSettings.model_validate(settings)
        check_live(live, set(fleet.tiers), set(fleet.groups))
    except ValidationError as error:
        raise ConfigError(explain(error, "live settings")) from error
    except ValueError as error:
        raise ConfigError(f"live settings: {error}") from error
    return live


def parse_config(settings: Any, source: str = "config") -> FleetConfig:
    """A config from plain data. Raises ConfigError that names every wrong key."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: expected a mapping with `tiers` and `groups`, found {type(settings).__name__}")
    try:
        return FleetConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from error


def read_config(path: Path) -> FleetConfig:
    """The fleet described by a YAML file. Relative paths in it are taken from the file's folder.

    Raises ConfigError when the file is missing, is not YAML, or is wrong.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    config = parse_config(settings, str(path))

    def from_file(value: str | None) -> str | None:
        return str((path.parent / value).resolve()) if value else None

    tiers = {
        name: tier.model_copy(update={"model": from_file(tier.model)}) if tier.model.startswith(".") else tier
        for name, tier in config.tiers.items()
    }
    search = config.search and config.search.model_copy(update={"index": from_file(config.search.index)})
    quality = config.quality.model_copy(update={"table": from_file(config.quality.table)})
    return config.model_copy(
        update={"tiers": tiers, "search": search, "quality": quality, "profile": from_file(config.profile)}
    )


def explain(error: ValidationError, source: str, most: int = 20) -> str:
    """One line a fault: where it is and what is wrong. A value that might have had several forms is named once."""
    lines: dict[tuple[object, ...], str] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        place, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key"
        if len(place) > 2 and place[0] == "documents":
            place, message = place[:2], 'must be a string or {"text": string}'
        where = ".".join(str(part) for part in place)
        lines.setdefault(place, f"{source}: {where + ': ' if where else ''}{message}")
    shown = list(lines.values())[:most]
    if len(lines) > most:
        shown.append(f"… and {len(lines) - most} more")
    return "\n".join(shown)
