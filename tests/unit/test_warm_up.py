"""Before a replica takes traffic every tier of it has scored. It happens in the constructor, before which Serve sends
nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankfleet.app.group import warm_up
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.measure import WARM_UP_BATCHES
from rankfleet.routing.latency import LatencyModel
from tests.unit.fakes import fleet


class Counted:
    """Scores nothing, and counts the batches."""

    max_pair = 64

    def __init__(self) -> None:
        self.batches = 0

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.batches += 1
        return np.zeros(len(pairs), dtype=np.float32)


@pytest.mark.parametrize("profiled", [False, True])
def test_every_tier_has_scored_before_traffic_comes(profiled: bool, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    stored = {"small": LatencyModel(1.0, 0.5, 0.0), "medium": LatencyModel(2.0, 0.5, 0.0)}
    profile.write_text(json.dumps({"measured": {}, "tiers": {name: model.to_json() for name, model in stored.items()}}))
    scorers: dict[str, Any] = {name: Counted() for name in ("small", "medium", "large")}
    models = warm_up(fleet(profile=str(profile)) if profiled else fleet(), scorers)
    assert all(scorer.batches >= WARM_UP_BATCHES + 3 for scorer in scorers.values())
    assert models.keys() == scorers.keys()
    assert (models["small"] == stored["small"]) is profiled
