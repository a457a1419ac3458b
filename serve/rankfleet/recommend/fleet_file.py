"""The fleet file that a choice makes of another: its tiers alone, with their measured quality, in one group."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from rankfleet.recommend.choice import Option


def reduced(fleet: FleetConfig, tiers: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a fleet with these tiers alone, as plain data, all hosted by the group of the last of them."""
    settings = fleet.model_dump(mode="json", exclude_defaults=True)
    name = fleet.group_of(tiers[-1])
    settings["tiers"] = {tier: settings["tiers"][tier] for tier in tiers}
    settings["groups"] = {name: settings["groups"][name] | {"tiers": [*tiers]}}
    if settings.get("default_model") not in tiers:
        settings.pop("default_model", None)
    if "groups" in (scaling := settings.get("autoscaling", {})):
        scaling["groups"] = {group: own for group, own in scaling["groups"].items() if group == name}
    return settings


def chosen_fleet(
    fleet: FleetConfig,
    option: Option,
    qualities: Mapping[str, float],
    table: str,
    replicas: int | None,
    profile: str | None,
) -> dict[str, Any]:
    """The settings of a fleet that runs the option.

    qualities: nDCG@10 of each tier alone; table: file of the quality table; replicas: None to leave them as they are;
    profile: file of latency models, None to leave it as it is. Raises ConfigError if the rest of the fleet file does
    not fit, such as an experiment with a tier that is gone.
    """
    settings = reduced(fleet, option.tiers)
    for tier in option.tiers:
        settings["tiers"][tier]["quality"] = qualities[tier]
    settings["quality"] = {"table": table}
    [group] = settings["groups"].values()
    if replicas is not None and group.get("in_router"):
        settings["routers"] = replicas
    elif replicas is not None:
        group["replicas"] = {"min": replicas, "max": max(replicas, group.get("replicas", {}).get("max", 1))}
    if profile is not None:
        settings["profile"] = profile
    parse_config(settings, "the recommended fleet")
    return settings


def written(settings: Mapping[str, Any], why: str) -> str:
    """A fleet file as text. why: one paragraph that stands above it as a comment."""
    comment = "\n".join(textwrap.wrap(why, 118, initial_indent="# ", subsequent_indent="# "))
    return f"{comment}\n\n{yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=120)}"


def table_beside(path: Path) -> Path:
    """Where the quality table of a fleet file is written."""
    return path.with_suffix(".quality.json")
