"""Predicted quality of a ranking: nDCG@10 by tier, depth, pair length and cascade.

The table is a JSON file, which users replace by one of their own (`rankfleet evaluate --table`):

    {"data_sets": {"nfcorpus": {
        "retriever": 0.325,
        "tiers": {"small": 0.36, "large": {"20": 0.37, "100": 0.39}},
        "tokens": {"large": {"128": 0.38}},
        "cascades": {"small>large": {"20": 0.385}},
        "calibration": {"small": {"slope": 0.9, "intercept": 0.6}},
        "fused": {
            "weights": {"small": 1.5},
            "tiers": {"small": 0.38},
            "cascades": {"small>large": {"20": 0.395}},
            "calibration": {"small": {"slope": 0.8, "intercept": 0.4}}}}}}

Under `tiers` a figure may be given by depth, the number of candidates scored; `tokens` is by the length to which pairs
are cut, `cascades` by the number of candidates that the large tier scores. `fused` holds the weights with which tiers
are fused with the order of the candidates (`estimates/fusion.py`), and the same figures for the fused order.
`calibration` makes probabilities of a tier's scores (`estimates/calibration.py`).
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.model_ids import SHIPPED_MODELS
from rankfleet.estimates.calibration import Calibration, parse_calibrations

Curve = Mapping[int, float]  # depth or pair length → nDCG@10


@dataclass(frozen=True)
class QualityTable:
    """nDCG@10 on one data set.

    tiers: by tier, with all candidates scored and no pair cut
    retriever: of the order in which the candidates come
    depths: by tier and number of candidates scored
    tokens: by tier and the length to which pairs are cut
    cascades: by (small, large) tier and number of candidates that the large one scores
    """

    tiers: Mapping[str, float]
    retriever: float = 0.0
    depths: Mapping[str, Curve] = field(default_factory=dict)
    tokens: Mapping[str, Curve] = field(default_factory=dict)
    cascades: Mapping[tuple[str, str], Curve] = field(default_factory=dict)

    @property
    def detailed(self) -> bool:
        """Whether the table has more than one figure per tier."""
        return bool(self.depths or self.tokens or self.cascades)

    def at_depth(self, tier: str, scored: int, given: int) -> float:
        """Quality when `tier` scores the first `scored` of `given` candidates.

        Interpolated linearly in log(depth) between the depths of the table, starting with the retriever's quality at
        depth 1. Without depths, a guess: the gain over the retriever grows linearly with scored ÷ given. The guess is
        good enough to order plans, and every plan that rests on it is marked as degraded.
        """
        if scored <= 0:
            return self.retriever
        if scored >= given:
            return self.tiers[tier]
        curve = self.depths.get(tier)
        if not curve:
            return self._share_of_gain(tier, scored / given)
        known = sorted({1: self.retriever, **curve}.items())
        for (low, worse), (high, better) in itertools.pairwise(known):
            if scored <= high:
                return worse + (better - worse) * math.log(scored / low) / math.log(high / low)
        return known[-1][1]

    def at_length(self, tier: str, max_tokens: int, share: float) -> float:
        """Quality when pairs are cut to `max_tokens`, which leaves `share` of all tokens.

        Without a figure in the table, a guess: `share` of the tier's gain over the retriever.
        """
        known = self.tokens.get(tier, {}).get(max_tokens)
        return self._share_of_gain(tier, share) if known is None else known

    def of_cascade(self, small: str, large: str, scored: int) -> float:
        """Quality when `small` scores everything and `large` the best `scored` of it.

        The figure of the largest depth in the table that is not above `scored`; without one, that of `small` alone.
        """
        depths = [depth for depth in self.cascades.get((small, large), ()) if depth <= scored]
        return self.cascades[small, large][max(depths)] if depths else self.tiers[small]

    def _share_of_gain(self, tier: str, share: float) -> float:
        return self.retriever + (self.tiers[tier] - self.retriever) * share


@dataclass(frozen=True)
class FleetQuality:
    """What is known of a fleet's rankings, with which weights its tiers are fused, and what their scores mean.

    ranked: of candidates that come in a retriever's order: its own quality, and that of tiers fused with it.
    unordered: of candidates whose order says nothing; the quality of leaving them so counts as 0, and the first of them
        are any of them.
    weights: by tier; empty if none have been fitted.
    calibration: by tier, of its logits. ranked_calibration: of its scores where candidates come in a retriever's order:
        fused with those weights, or its logits where it has none.
    """

    ranked: QualityTable
    unordered: QualityTable
    weights: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    ranked_calibration: Mapping[str, Calibration] = field(default_factory=dict)

    @staticmethod
    def of(known: QualityTable, data: Mapping[str, Any]) -> "FleetQuality":
        """known: the figures of the tiers alone. data: the data set's JSON object; may be empty."""
        ranked, fused = known, data.get("fused", {})
        if fused:
            ranked = parse_table({"retriever": known.retriever, **fused}, known.tiers, known.retriever)
            ranked = replace(ranked, tokens=ranked.tokens or known.tokens)
        weights = {tier: float(weight) for tier, weight in fused.get("weights", {}).items()}
        if not all(map(math.isfinite, weights.values())):
            raise ValueError(f"weights have to be finite, not {weights}")
        alone = parse_calibrations(data.get("calibration", {}))
        not_fused = {tier: own for tier, own in alone.items() if tier not in weights}
        of_ranked = not_fused | parse_calibrations(fused.get("calibration", {}))
        return FleetQuality(ranked, replace(known, retriever=0.0, depths={}), weights, alone, of_ranked)

    def table(self, ranked: bool) -> QualityTable:
        """Of requests whose candidates come in a retriever's order, or of those whose order says nothing."""
        return self.ranked if ranked else self.unordered


def fleet_quality(config: FleetConfig) -> FleetQuality:
    """From the table that a fleet file names, or its figures by tier if it names none.

    Raises ConfigError if the table cannot be read or lacks the data set.
    """
    settings, tiers = config.quality, {name: tier.quality for name, tier in config.tiers.items()}
    if settings.table is None:
        return FleetQuality.of(QualityTable(tiers, settings.retriever), {})
    try:
        data_sets = json.loads((SHIPPED_MODELS / settings.table).read_text(encoding="utf-8"))["data_sets"]
        name = settings.data_set or next(iter(data_sets))
        if name not in data_sets:
            raise ConfigError(f"quality.data_set: {name!r} is not in {settings.table}; it has {', '.join(data_sets)}")
        data = data_sets[name]
        return FleetQuality.of(parse_table(data, tiers, settings.retriever), data)
    except OSError as error:
        raise ConfigError(
            f"quality.table {settings.table}: {error.strerror}; write it with `rankfleet evaluate --table`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, OverflowError, RecursionError) as error:
        raise ConfigError(f"quality.table {settings.table} is not a table of qualities: {error!r}") from error


def own_table(config: FleetConfig) -> QualityTable:
    """Of requests that do not say how their candidates come. Raises as `fleet_quality` does."""
    return fleet_quality(config).table(config.ranked)


def parse_table(data: Mapping[str, Any], tiers: Mapping[str, float], retriever: float) -> QualityTable:
    """Read one data set of a table.

    data: its JSON object
    tiers, retriever: figures of the fleet file, used where the table has none
    """
    depths = {tier: curve_of(known) for tier, known in data.get("tiers", {}).items() if isinstance(known, dict)}
    whole = {tier: float(known) for tier, known in data.get("tiers", {}).items() if not isinstance(known, dict)}
    whole |= {tier: curve[max(curve)] for tier, curve in depths.items()}
    cascades = {}
    for pair, known in data.get("cascades", {}).items():
        small, large = pair.split(">")
        if small in tiers and large in tiers:
            cascades[small, large] = curve_of(known)
    return QualityTable(
        {tier: whole.get(tier, quality) for tier, quality in tiers.items()},
        float(data.get("retriever", retriever)),
        depths,
        {tier: curve_of(known) for tier, known in data.get("tokens", {}).items()},
        cascades,
    )


def curve_of(known: Mapping[str, Any]) -> dict[int, float]:
    """Raises ValueError for a key that is not a whole number."""
    return {int(key): float(quality) for key, quality in known.items()}
