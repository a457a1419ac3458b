"""The models that a replica hosts: which one a tier stands for, what each takes, and when it was last requested.

A model is known by its fingerprint (`core/fingerprint.py`), a tier by its name in the fleet file. After a change of
the file a replica hosts the old and the new model of a tier side by side: routers that have not changed yet still
send chunks for the old one. A chunk says which fingerprint its router means.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankfleet.core.errors import ScoringFailed
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.work import Work
from rankfleet.estimates.correction import Correction
from rankfleet.estimates.frontier import TierOption, quality_range
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.precision import Precision


class PairScorer(Protocol):
    """Scores pairs: `engine.runtime.scorer.Scorer`, or a fake."""

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        """Raw logits, float32 [pairs]."""
        ...


@dataclass(frozen=True)
class HostedModel:
    """A loaded model.

    tier: its tier in the fleet file
    scorer: None in a simulation, which asks only how long it takes
    latency: as profiled on this device
    weights: fingerprint of its weights and of the precision they are computed in
    precision: the latter, and why; None in a simulation
    """

    tier: str
    scorer: PairScorer | None
    latency: LatencyModel
    weights: str = ""
    precision: Precision | None = None

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        """Raw logits, float32 [pairs]. Raises ScoringFailed if they are not finite or not one per pair."""
        assert self.scorer is not None, f"tier {self.tier} is simulated"
        logits = self.scorer.score(pairs)
        if logits.shape != (len(pairs),) or not np.isfinite(logits).all():
            raise ScoringFailed(f"tier {self.tier} gave scores that are not finite, or not one for each pair")
        return logits

    def score_chunks(self, chunks: Sequence[Chunk]) -> list[np.ndarray]:
        """Raw logits of each chunk, scored as one packed batch."""
        if len(chunks) == 1:
            return [self.score(chunks[0].pairs)]
        logits = self.score(TokenizedPairs.join([chunk.pairs for chunk in chunks]))
        return np.split(logits, np.cumsum([len(chunk.pairs) for chunk in chunks])[:-1])


class HostedModels:
    """All models of a replica, by fingerprint. Time is an argument, in seconds of any steady clock."""

    def __init__(self, quality: Mapping[str, float]) -> None:
        """quality: nDCG@10 by tier, hosted here or not."""
        self._models: dict[str, HostedModel] = {}
        self._current: dict[str, str] = {}  # tier → fingerprint of the model that goes by its name
        self._requested_s: dict[str, float] = {}  # fingerprint → when a chunk last asked for it
        self._failures: dict[str, int] = {}  # fingerprint → batches that have failed since its last success
        self._quality = dict(quality)
        self._correction = Correction()
        self._corrected: dict[str, LatencyModel] = {}  # by fingerprint, since the correction last changed
        self.quality_range = 1.0  # best − worst quality of the tiers that are hosted, the unit of prices

    def __getitem__(self, fingerprint: str) -> HostedModel:
        return self._models[fingerprint]

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of all hosted models."""
        return frozenset(self._models)

    @property
    def weights(self) -> frozenset[str]:
        """Fingerprints of the weights of all hosted models."""
        return frozenset(model.weights for model in self._models.values())

    @property
    def precisions(self) -> dict[str, Precision]:
        """What the hosted models are computed in, by fingerprint."""
        return {name: model.precision for name, model in self._models.items() if model.precision is not None}

    def host(self, fingerprint: str, model: HostedModel, now_s: float) -> None:
        """Add a model. Its tier goes by it from now on."""
        self._models[fingerprint] = model
        self._current[model.tier] = fingerprint
        self._requested_s[fingerprint] = now_s
        self._hosting_changed()

    def set_current(self, fingerprints: Mapping[str, str]) -> None:
        """Let each tier go by the hosted model of this fingerprint.

        When a change of the fleet file is taken back, the first model is still hosted and is not loaded again, so
        `host` alone would leave the tier with the model that came second.
        """
        self._current.update(fingerprints)

    def forget(self, kept: Container[str], in_use: Container[str], unused_s: float, now_s: float) -> list[str]:
        """Drop the models that no chunk has asked for within `unused_s`. Returns their fingerprints.

        kept: fingerprints of the fleet file, which stay
        in_use: fingerprints that a waiting or running chunk needs, which stay for now
        """
        before_s = now_s - unused_s
        gone = [
            fingerprint
            for fingerprint in self._models
            if fingerprint not in kept and fingerprint not in in_use and self._requested_s[fingerprint] <= before_s
        ]
        for fingerprint in gone:
            tier = self._models.pop(fingerprint).tier
            del self._requested_s[fingerprint]
            if self._current.get(tier) == fingerprint:
                del self._current[tier]
            self._failures.pop(fingerprint, None)
        self._hosting_changed()
        return gone

    def _hosting_changed(self) -> None:
        self._corrected.clear()
        if self._models:
            self.quality_range = quality_range(map(self.quality, self._models))

    def resolve(self, tier: str | None, chunk: Chunk) -> str | None:
        """The fingerprint of the hosted model that the chunk's router means by a tier; None if it is not hosted.

        A chunk that names no model for the tier gets the one that goes by its name here.
        """
        if tier is None:
            return None
        fingerprint = chunk.models.get(tier, self._current.get(tier))
        model = self._models.get(fingerprint) if fingerprint is not None else None
        return fingerprint if model is not None and chunk.weights in (None, model.weights) else None

    def requested(self, fingerprints: Iterable[str], now_s: float) -> None:
        """A chunk asks for these models."""
        self._requested_s.update(dict.fromkeys(fingerprints, now_s))

    def adjust(self, quality: Mapping[str, float]) -> None:
        """Change the qualities. Tiers that have left the fleet file keep their last: chunks may still ask for them."""
        self._quality = {**self._quality, **quality}
        self._hosting_changed()

    def quality(self, fingerprint: str) -> float:
        """nDCG@10 of a hosted model's tier."""
        return self._quality.get(self._models[fingerprint].tier, 0.0)

    def is_below(self, fingerprint: str, tier: str | None) -> bool:
        """Whether a hosted model has a lower quality than a tier, which may be hosted elsewhere. False if unknown."""
        known = None if tier is None else self._quality.get(tier)
        return known is not None and self.quality(fingerprint) < known

    def option(self, fingerprint: str, work: Work, batch_tokens: int) -> TierOption:
        """A model as an option for a chunk. batch_tokens: of a full batch."""
        cost = self.latency(fingerprint).cost(work, batch_tokens)
        return TierOption(fingerprint, self.quality(fingerprint), *cost)

    def latency(self, fingerprint: str) -> LatencyModel:
        """As profiled, corrected by what batches have taken."""
        latency = self._corrected.get(fingerprint)
        if latency is None:
            latency = self._correction.corrected(fingerprint, self._models[fingerprint].latency)
            self._corrected[fingerprint] = latency
        return latency

    @property
    def latencies(self) -> dict[str, LatencyModel]:
        """Of all hosted models, by fingerprint."""
        return {fingerprint: self.latency(fingerprint) for fingerprint in self._models}

    def rested(self, idle_s: float) -> None:
        """The device has been idle."""
        self._correction.rested(idle_s)
        self._corrected.clear()

    def succeeded(self, fingerprint: str, works: Iterable[Work], measured_ms: float) -> None:
        """A model has scored a batch of these chunks in `measured_ms`."""
        self._failures.pop(fingerprint, None)
        profiled = self._models[fingerprint].latency
        self._correction.observed(fingerprint, profiled, profiled.mean_ms(Work.sum(works)), measured_ms)
        self._corrected.clear()

    def failed(self, fingerprint: str) -> None:
        """A model has failed on a batch."""
        self._failures[fingerprint] = self._failures.get(fingerprint, 0) + 1

    def recovered(self, fingerprint: str) -> None:
        """A model has scored a probe: its failures were the fault of what it was sent."""
        self._failures.pop(fingerprint, None)

    @property
    def failing(self) -> list[str]:
        """Fingerprints of the models whose last batch failed."""
        return list(self._failures)

    @property
    def failures(self) -> int:
        """Batches in a row that have failed, of the model that fails most."""
        return max(self._failures.values(), default=0)
