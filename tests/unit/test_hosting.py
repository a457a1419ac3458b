"""The models that a replica hosts, through changes of the fleet file. Fingerprints are a1, a2, b1; tiers t and u."""

import numpy as np
import pytest

from rankfleet.core.errors import ScoringFailed
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.hosting import HostedModel, HostedModels

LATENCY = LatencyModel(4.0, 1.0, 0.0)


class Constant:
    """Gives every pair the same score."""

    def __init__(self, score: float = 0.5) -> None:
        self.value = score

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        return np.full(len(pairs), self.value, np.float32)


def model(tier: str, weights: str = "") -> HostedModel:
    return HostedModel(tier, Constant(), LATENCY, weights)


def chunk(tier: str = "t", models: dict[str, str] | None = None, weights: str | None = None, pairs: int = 1) -> Chunk:
    tokenized = TokenizedPairs(np.zeros(4 * pairs, np.int32), np.full(pairs, 4, np.int32), np.full(pairs, 2, np.int32))
    return Chunk((tier,), tokenized, models=models or {}, weights=weights)


@pytest.fixture
def models() -> HostedModels:
    """a1 for t and b1 for u, hosted since 0 s."""
    found = HostedModels({"t": 0.3, "u": 0.4})
    found.host("a1", model("t", "w1"), 0.0)
    found.host("b1", model("u", "w9"), 0.0)
    return found


def test_a_tier_goes_by_the_model_that_was_hosted_last(models: HostedModels) -> None:
    assert models.resolve("t", chunk()) == "a1"
    models.host("a2", model("t", "w2"), 1.0)
    assert models.resolve("t", chunk()) == "a2"
    assert models.fingerprints == {"a1", "a2", "b1"}
    assert models.weights == {"w1", "w2", "w9"}


def test_a_chunk_gets_the_model_that_its_router_means(models: HostedModels) -> None:
    models.host("a2", model("t", "w2"), 1.0)
    assert models.resolve("t", chunk(models={"t": "a1"})) == "a1"
    assert models.resolve("t", chunk(models={"t": "a1"}, weights="w1")) == "a1"
    assert models.resolve("t", chunk(models={"t": "a1"}, weights="w2")) is None
    assert models.resolve("t", chunk(models={"t": "a3"})) is None
    assert models.resolve("x", chunk()) is None


def test_a_model_is_forgotten_when_it_is_unused_for_long_enough(models: HostedModels) -> None:
    models.host("a2", model("t"), 10.0)
    assert models.forget({"a2", "b1"}, set(), 30.0, 29.9) == []
    assert models.forget({"a2", "b1"}, set(), 30.0, 30.0) == ["a1"]
    assert models.fingerprints == {"a2", "b1"}
    assert models.resolve("t", chunk(models={"t": "a1"})) is None


def test_a_model_that_a_chunk_asks_for_or_needs_is_kept(models: HostedModels) -> None:
    models.host("a2", model("t"), 0.0)
    models.requested(["a1"], 20.0)
    assert models.forget({"a2", "b1"}, set(), 30.0, 49.9) == []
    assert models.forget({"a2", "b1"}, {"a1"}, 30.0, 50.0) == []
    assert models.forget({"a2", "b1"}, set(), 30.0, 50.0) == ["a1"]


def test_a_change_taken_back_within_half_a_minute_leaves_a_tier_with_its_first_model(models: HostedModels) -> None:
    """t goes from a1 to a2 and back to a1. a1 is still hosted, so it is not loaded again; a2 is forgotten later."""
    models.host("a2", model("t"), 5.0)
    models.set_current({"t": "a1", "u": "b1"})
    assert models.resolve("t", chunk()) == "a1"
    assert models.forget({"a1", "b1"}, set(), 30.0, 35.0) == ["a2"]
    assert models.resolve("t", chunk()) == "a1"
    assert models.quality_range == pytest.approx(0.1)  # of t and u


def test_a_change_made_again_after_it_was_taken_back_gives_a_tier_its_second_model(models: HostedModels) -> None:
    models.host("a2", model("t"), 5.0)
    models.set_current({"t": "a1"})
    models.set_current({"t": "a2"})
    assert models.forget({"a2", "b1"}, set(), 30.0, 35.0) == ["a1"]
    assert models.resolve("t", chunk()) == "a2"


def test_a_tier_whose_model_is_forgotten_has_none(models: HostedModels) -> None:
    assert models.forget({"b1"}, set(), 30.0, 30.0) == ["a1"]
    assert models.resolve("t", chunk()) is None


def test_a_model_that_is_hosted_again_has_no_old_failures(models: HostedModels) -> None:
    models.failed("a1")
    models.forget({"b1"}, set(), 30.0, 30.0)
    models.host("a1", model("t"), 31.0)
    assert models.failures == 0


def test_failures_are_counted_by_model_until_its_next_success(models: HostedModels) -> None:
    for fingerprint in ("a1", "a1", "b1", "a1"):
        models.failed(fingerprint)
    models.succeeded("b1", [Work(1, 4, 16)], 8.0)
    assert (models.failures, models.failing) == (3, ["a1"])
    models.recovered("a1")
    assert (models.failures, models.failing) == (0, [])


def test_a_tier_that_has_left_the_fleet_file_keeps_its_quality(models: HostedModels) -> None:
    models.adjust({"t": 0.35})
    assert (models.quality("a1"), models.quality("b1")) == (0.35, 0.4)


def test_a_model_is_below_a_tier_of_higher_quality_wherever_that_is_hosted() -> None:
    models = HostedModels({"t": 0.3, "u": 0.4})
    models.host("a1", model("t"), 0.0)
    assert [models.is_below("a1", tier) for tier in ("u", "t", "", "unknown")] == [True, False, False, False]


def test_latency_is_corrected_by_what_batches_take(models: HostedModels) -> None:
    # Two chunks of 10 tokens: 4 + 20 = 24 ms are predicted, 26.4 measured. A fifth of the error counts for all models
    # of the device, a twentieth more for this one.
    models.succeeded("a1", [Work(1, 10, 100), Work(1, 10, 100)], 26.4)
    assert models.latency("a1").beta_ms == pytest.approx(1.1**0.25)
    assert models.latencies["b1"].beta_ms == pytest.approx(1.1**0.2)


def test_chunks_are_scored_as_one_batch_and_split_again() -> None:
    scores = model("t").score_chunks([chunk(pairs=2), chunk(pairs=1)])
    assert [each.tolist() for each in scores] == [[0.5, 0.5], [0.5]]


def test_a_hosted_model_without_a_scorer_has_costs() -> None:
    models = HostedModels({"t": 0.3})
    models.host("a1", HostedModel("t", None, LATENCY), 0.0)
    # Half of a full batch: half of the 4 ms that a batch costs, and 8 ms of its own.
    assert models.option("a1", Work(2, 8, 32), 16) == ("a1", 0.3, 4.0, 8.0, 10.0, 12.0, 10.0)


def test_the_quality_range_is_that_of_all_hosted_models(models: HostedModels) -> None:
    models.host("c1", model("x"), 0.0)
    assert models.quality_range == pytest.approx(0.4)  # the quality of x is not known: 0
    models.forget({"a1", "b1"}, set(), 0.0, 1.0)
    assert models.quality_range == pytest.approx(0.1)
    models.adjust({"u": 0.5})
    assert models.quality_range == pytest.approx(0.2)


def test_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ScoringFailed, match="tier t gave scores that are not finite"):
        HostedModel("t", Constant(float("nan")), LATENCY).score_chunks([chunk()])
