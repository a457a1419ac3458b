"""A replica of a group, outside of Serve: which models it hosts as its fleet file changes."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray import serve

from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.loading import REPEATS, measure_model, profiled_latency
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError, ConfigError, NotHosted
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.runtime.measure import QUICK, WARM_UP_BATCHES
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.precision import Precision
from tests.unit.fakes import fleet, let_threads_run

PAIRS = TokenizedPairs(np.arange(4, dtype=np.int32), np.array([4], np.int32), np.array([2], np.int32))
BFLOAT16 = Precision("bfloat16", "the fastest here", {"float32": 1.0, "bfloat16": 2.0})
LATENCY = {"alpha_ms": 1.0, "beta_ms": 0.001, "gamma_ms": 0.0, "p99_factor": 1.1}


class FakeScorer:
    """Gives every pair the same score, and counts batches."""

    max_pair = 64

    def __init__(self, score: float = 0.0) -> None:
        self.batches = 0
        self._score = score

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.batches += 1
        return np.full(len(pairs), self._score, dtype=np.float32)


@pytest.mark.parametrize(("is_profiled", "samples"), [(False, REPEATS * len(QUICK)), (True, len(QUICK))])
async def test_a_tier_has_scored_before_traffic_comes(is_profiled: bool, samples: int) -> None:
    scorer = FakeScorer()
    with ThreadPoolExecutor(1) as executor:
        taken = [s async for s in measure_model(fleet(), "small", scorer, executor, is_profiled)]  # type: ignore[arg-type]
    assert (len(taken), scorer.batches) == (samples, samples + WARM_UP_BATCHES)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, object]]]:
    """What Serve hands to replicas of a group whose one tier, `small`, has the given model. Models are named by the
    score that they give, and `broken` cannot be loaded."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"tiers": {"small": LATENCY}}))

    def of(model: str) -> dict[str, object]:
        tiers = {"small": {"model": model, "quality": 0.3}}
        return fleet(tiers=tiers, groups={"demo": {"tiers": ["small"]}}, profile=str(profile)).for_groups

    interval = sys.getswitchinterval()
    yield of
    sys.setswitchinterval(interval)


def fingerprint(config: FleetConfig, tier: str) -> str:
    return f"model {config.tiers[tier].model}"


class Loads:
    """Loads fake scorers, and counts how often each model was loaded."""

    def __init__(self) -> None:
        self.models: list[str] = []

    def __call__(self, config: FleetConfig, tier: str) -> tuple[str, FakeScorer, str, Precision]:
        model = config.tiers[tier].model
        if model == "broken":
            raise CheckpointError("there is no model folder")
        self.models.append(model)
        return fingerprint(config, tier), FakeScorer(float(model)), f"weights {model}", BFLOAT16


def replica(loads: Loads) -> ReplicaGroup:
    return ReplicaGroup("demo", fingerprint, loads, lambda *_: None)  # type: ignore[arg-type]


async def score_by(group: ReplicaGroup, **models: str) -> float:
    """The score of a pair by tier `small`. models: fingerprints that the router means by tiers."""
    scores = await group._ready.submit(Chunk(("small",), PAIRS, models=models))
    return float(scores.logits[0])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await let_threads_run()


async def test_a_first_file_that_is_wrong_raises(settings: Callable[[str], dict[str, object]]) -> None:
    group = replica(Loads())
    with pytest.raises(ConfigError):
        await group.reconfigure({"tiers": "none of this"})
    with pytest.raises(CheckpointError, match="tier small"):
        await group.reconfigure(settings("broken"))
    assert group.record_routing_stats() == {}, "Serve is told of no model before there is one"


async def test_a_new_model_takes_the_name_and_the_old_one_answers_who_still_means_it(
    settings: Callable[[str], dict[str, object]],
) -> None:
    group = replica(Loads())
    await group.reconfigure(settings("1"))
    assert group.record_routing_stats()["hosts"] == ["model 1", "weights 1"]
    assert await score_by(group) == 1.0
    await group.reconfigure(settings("2"))

    async def turned() -> bool:
        return await score_by(group) == 2.0

    await until(turned)
    assert group.record_routing_stats()["hosts"] == ["model 1", "model 2", "weights 1", "weights 2"]
    assert await score_by(group, small="model 1") == 1.0
    with pytest.raises(NotHosted):
        await score_by(group, small="model 3")


async def test_routers_are_told_the_precision_of_each_model(settings: Callable[[str], dict[str, object]]) -> None:
    group = replica(Loads())
    await group.reconfigure(settings("1"))
    assert group.record_routing_stats()["precisions"] == {
        "model 1": {
            "dtype": "bfloat16",
            "reason": "the fastest here",
            "pairs_per_s": {"float32": 1.0, "bfloat16": 2.0},
        }
    }


@pytest.mark.parametrize(
    ("measured", "is_used"), [({}, True), ({"small": "int8"}, True), ({"small": "float32"}, False)]
)
def test_a_profile_of_another_precision_is_not_used(measured: dict[str, str], is_used: bool, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"measured": {"dtype": measured}, "tiers": {"small": LATENCY}}))
    expected = LatencyModel(alpha_ms=1.0, beta_ms=0.001, gamma_ms=0.0, p99_factor=1.1) if is_used else None
    assert profiled_latency(fleet(profile=str(path)), "small", "int8") == expected
    assert profiled_latency(fleet(profile=str(path)), "medium", "int8") is None
    assert profiled_latency(fleet(), "small", "int8") is None


async def test_only_what_is_not_hosted_needs_room_and_nothing_is_loaded_without_it(
    settings: Callable[[str], dict[str, object]],
) -> None:
    loads, asked = Loads(), list[list[str]]()

    def check_room(config: FleetConfig, group: str, tiers: Sequence[str]) -> None:
        asked.append([group, *(config.tiers[tier].model for tier in tiers)])
        if config.tiers["small"].model == "9":
            raise CheckpointError("it does not fit")

    group = ReplicaGroup("demo", fingerprint, loads, check_room)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="it does not fit"):
        await group.reconfigure(settings("9"))
    assert loads.models == []
    for model in ("1", "2", "1", "9"):
        await group.reconfigure(settings(model))

    async def refused() -> bool:
        return group.record_routing_stats()["fault"] != ""

    await until(refused)
    assert "it does not fit" in group.record_routing_stats()["fault"]
    assert "9" not in loads.models
    assert asked[0] == asked[-1] == ["demo", "9"]
    assert asked.count(["demo", "1"]) == 1


async def test_reports_to_the_autoscaler_are_numbered(settings: Callable[[str], dict[str, object]]) -> None:
    group = replica(Loads())
    assert group.record_autoscaling_stats() == {}
    await group.reconfigure(settings("1"))
    assert [group.record_autoscaling_stats()["report"] for _ in range(3)] == [1, 2, 3]


async def test_a_file_that_is_taken_back_gives_tiers_their_first_models_back_by_name(
    settings: Callable[[str], dict[str, object]],
) -> None:
    loads = Loads()
    group = replica(loads)
    await group.reconfigure(settings("1"))
    for model in ("2", "1"):
        await group.reconfigure(settings(model))

        async def turned(model: str = model) -> bool:
            return await score_by(group) == float(model)

        await until(turned)
    assert loads.models == ["1", "2"], "the first model was still hosted"


async def test_a_file_that_cannot_be_loaded_is_reported_to_routers_with_its_settings(
    settings: Callable[[str], dict[str, object]],
) -> None:
    group = replica(Loads())
    await group.reconfigure(settings("1"))
    first = group.record_routing_stats()
    await group.reconfigure(settings("broken"))

    async def reported() -> bool:
        return bool(group.record_routing_stats()["fault"])

    await until(reported)
    stats = group.record_routing_stats()
    assert (stats["hosts"], stats["fault"]) == (first["hosts"], "tier small: there is no model folder")
    assert stats["settings"] != first["settings"]
    assert await score_by(group) == 1.0
    await group.reconfigure(settings("1"))
    assert group.record_routing_stats() == first
