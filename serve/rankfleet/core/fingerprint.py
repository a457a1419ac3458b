"""Fingerprints of models, so that the models of two fleet files never score one ranking together."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rankfleet.core.sections import Tier


def fingerprint(*parts: str) -> str:
    """16 hex digits: equal for equal parts, different for different ones."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def settings_name(settings: Mapping[str, Any]) -> str:
    """The fingerprint of plain data, whatever the order of its keys."""
    return fingerprint(json.dumps(settings, sort_keys=True))


def model_name(name: str, tier: Tier, dtype: str, description: str) -> str:
    """The fingerprint of a tier's model, from what router and replica both know.

    `name`: of the tier. `dtype`: precision as configured. `description`: digest of the files that describe the
    checkpoint, its vocabulary among them (`Checkpoint.description`). The weights are not part of it, because a router
    does not have them.
    """
    return fingerprint(name, tier.model, tier.revision or "", dtype, description)
