"""Profiles: files of latency models and request costs that `rankfleet profile` measured on one kind of device."""

import json
from pathlib import Path
from typing import Any

from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.request_cost import RequestCost


def profile_json(
    models: dict[str, LatencyModel], measured: dict[str, Any], cost: RequestCost | None = None
) -> dict[str, Any]:
    """The content of a profile. measured: device, versions and date, for the reader of the file."""
    request = {} if cost is None else {"request": cost.to_json()}
    return {"measured": measured, **request, "tiers": {name: model.to_json() for name, model in models.items()}}


def read_profile(path: str | Path) -> dict[str, LatencyModel]:
    """Latency models by tier. Raises ConfigError if the file is missing or not a profile."""
    return _read(path)[0]


def read_request_cost(path: str | Path) -> RequestCost:
    """What a request costs client and router; nothing if the profile does not say. Raises as `read_profile` does."""
    return _read(path)[1]


def read_dtypes(path: str | Path) -> dict[str, str]:
    """The precision that each tier was measured in, where the profile says it. Raises as `read_profile` does."""
    return _read(path)[2]


def _read(path: str | Path) -> tuple[dict[str, LatencyModel], RequestCost, dict[str, str]]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        models = {name: LatencyModel.from_json(model) for name, model in data["tiers"].items()}
        cost = RequestCost.from_json(data["request"]) if "request" in data else RequestCost()
        return models, cost, dict(data.get("measured", {}).get("dtype") or {})
    except OSError as error:
        raise ConfigError(f"profile {path}: {error.strerror}; write it with `rankfleet profile`") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"profile {path} is not one that `rankfleet profile` wrote: {error}; measure it anew"
        ) from error
