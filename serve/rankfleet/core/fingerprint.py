"""Which model is meant by a tier's name, so that two versions of a fleet never score one ranking together."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rankfleet.core.sections import Tier


def fingerprint(*parts: str) -> str:
    """16 hex digits: equal for equal parts, and otherwise different."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def settings_name(settings: Mapping[str, Any]) -> str:
    """Of plain data, whatever order its keys are in."""
    return fingerprint(json.dumps(settings, sort_keys=True))


def model_name(name: str, tier: Tier, dtype: str, description: str) -> str:
    """What router and replica both know of a tier's model: the tier's name, where the model comes from, its revision,
    precision as configured, and the files that describe it, its vocabulary among them (`Checkpoint.description`). The
    weights themselves are not at the router."""
    return fingerprint(name, tier.model, tier.revision or "", dtype, description)
