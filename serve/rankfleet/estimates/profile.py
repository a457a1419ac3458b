"""Stored latency models: what `rankfleet profile` measured on one kind of device."""

import json
from pathlib import Path
from typing import Any

from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel


def profile_json(models: dict[str, LatencyModel], measured: dict[str, Any]) -> dict[str, Any]:
    """measured: device, versions, date; kept with the figures, so that people can tell whose they are."""
    return {"measured": measured, "tiers": {name: model.to_json() for name, model in models.items()}}


def read_profile(path: str | Path) -> dict[str, LatencyModel]:
    """Latency models by tier. Raises ConfigError when the file is missing or is no profile."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: LatencyModel.from_json(model) for name, model in data["tiers"].items()}
    except OSError as error:
        raise ConfigError(f"profile {path}: {error.strerror}; write it with `rankfleet profile`") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"profile {path} is not one that `rankfleet profile` wrote: {error}") from error
