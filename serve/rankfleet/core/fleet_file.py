"""The fleet file: one YAML file with the settings of a fleet.

All commands read the same file, and so do the Kubernetes manifests. Unknown keys and impossible values are errors that
name the key.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.model_ids import SHIPPED_MODELS, may_be_hub_id
from rankfleet.core.sections import is_url

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
