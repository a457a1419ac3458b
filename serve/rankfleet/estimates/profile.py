"""Profiles: files of latency models that `rankfleet profile` measured on one kind of device."""

import json
from pathlib import Path
from typing import Any

from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel


def profile_json(models: dict[str, LatencyModel], measured: dict[str, Any]) -> dict[str, Any]:
    """The content of a profile. measured: device, versions and date, for the reader of the file."""
    return {"measured": measured, "tiers": {name: model.to_json() for name, model in models.items()}}


def read_profile(path: str | Path) -> dict[str, LatencyModel]:
    """Latency models by tier. Raises ConfigError if the file is missing or not a profile."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: LatencyModel.from_json(model) for name, model in data["tiers"].items()}
    except OSError as error:
        raise ConfigError(f"profile {path}: {error.strerror}; write it with `rankfleet profile`") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"profile {path} is not one that `rankfleet profile` wrote: {error}; measure it anew"
        ) from error
