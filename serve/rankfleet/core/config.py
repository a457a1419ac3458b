"""One file describes a fleet: tiers, groups, SLO classes, experiments and limits.

The same file feeds `serve`, `rank`, `profile`, `evaluate` and the Kubernetes manifests. Unknown keys and
impossible values are errors that name the key.
"""

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from rankfleet.core.errors import ConfigError
from rankfleet.core.passages import LongDocuments
from rankfleet.core.sections import (
    AUTO,
    UNSCORED,
    Autoscaling,
    Experiment,
    Group,
    Limits,
    Name,
    Quality,
    Routing,
    Scheduling,
    Search,
    Section,
    SloClass,
    Tier,
    Updates,
)


class LiveSettings(Section):
    """What routers alone read: replicas of groups need not hear of a change."""

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
# The router is a deployment beside the groups, and takes each group as an argument by its name: these are its own.
NOT_A_GROUP = ("config", "router", "self")
SHIPPED_MODELS = Path(__file__).parent.parent / "models"
# Keys of earlier versions, so that a file that still has one is told the new name.
RENAMED = {"routing.crowd_window": "arrival_window", "scheduling.patient_share": "best_effort_share"}
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
        for name in (AUTO, UNSCORED):
            if name in tiers:
                raise ValueError(f"{name!r} is reserved; name the tier otherwise")
        return tiers

    @field_validator("groups")
    @classmethod
    def _no_reserved_groups(cls, groups: dict[str, Group]) -> dict[str, Group]:
        for name in NOT_A_GROUP:
            if name in groups:
                raise ValueError(f"{name!r} is reserved; name the group otherwise")
        return groups

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
    def for_groups(self) -> dict[str, Any]:
        """As plain data, what replicas of groups have to know: neither live settings, nor the options that Serve takes
        beside (`cluster/deployment_options.py`), changes of which need not reach them."""
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


def parse_config(settings: Any, source: str = "config") -> FleetConfig:
    """A config from plain data. Raises ConfigError that names every wrong key."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: expected a mapping with `tiers` and `groups`, found {type(settings).__name__}")
    try:
        return FleetConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from error


def read_config(path: Path) -> FleetConfig:
    """The fleet described by a YAML file. Relative paths in it are taken from the file's folder, and ~ is the home.

    Raises ConfigError when the file is missing, is not YAML, or is wrong.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    config = parse_config(settings, str(path))

    def named(key: str, value: str | None) -> str | None:
        try:
            return absolute(value, path.parent) if value else None
        except RuntimeError as error:
            raise ConfigError(f"{path}: {key}: {value}: no home folder is known; give the whole path") from error

    tiers = {
        name: tier.model_copy(update={"model": named(f"tiers.{name}.model", tier.model)})
        if names_folder(tier.model, path.parent)
        else tier
        for name, tier in config.tiers.items()
    }
    search = config.search and config.search.model_copy(update={"index": named("search.index", config.search.index)})
    quality = config.quality.model_copy(update={"table": named("quality.table", config.quality.table)})
    profile = named("profile", config.profile)
    return config.model_copy(update={"tiers": tiers, "search": search, "quality": quality, "profile": profile})


def absolute(value: str, folder: Path) -> str:
    """A path as it stands in a file of this folder. Raises RuntimeError for ~ where no home folder is known."""
    return str((folder / Path(value).expanduser()).resolve())


def names_folder(model: str, folder: Path) -> bool:
    """Whether a tier's `model`, in a file of this folder, is a relative path or one in the home folder, and not a
    shipped name or a hub id. Those have exactly one slash; what looks like them may still be a folder that is there.
    """
    if model.startswith("/"):
        return False
    if model.startswith((".", "~")) or model.count("/") != 1:
        return True
    return not (SHIPPED_MODELS / model).is_dir() and (folder / model).is_dir()


def explain(error: ValidationError, source: str, max_lines: int = 20) -> str:
    """One line a fault: where it is and what is wrong. A value that might have had several forms is named once."""
    lines: dict[tuple[object, ...], str] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        place, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key"
            if (now := RENAMED.get(".".join(map(str, place)))) is not None:
                message = f"is called {now} now; rename it"
        if len(place) > 2 and place[0] == "documents":
            place, message = place[:2], 'must be a string or {"text": string}'
        where = ".".join(str(part) for part in place)
        lines.setdefault(place, f"{source}: {where + ': ' if where else ''}{message}")
    shown = list(lines.values())[:max_lines]
    if len(lines) > max_lines:
        shown.append(f"… and {len(lines) - max_lines} more")
    return "\n".join(shown)
