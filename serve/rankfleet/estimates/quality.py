"""How good a plan's ranking will be: nDCG@10 by tier, depth, cascade and data set.

A table is a JSON file that users can replace by their own:

    {"data_sets": {"nfcorpus": {
        "retriever": 0.325,
        "tiers": {"small": 0.36, "large": {"20": 0.37, "100": 0.39}},
        "tokens": {"large": {"128": 0.38}},
        "cascades": {"small>large": {"20": 0.385}}}}}

A tier's figure may be given by depth, the number of candidates scored; `tokens` by the length pairs are cut to.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError

Steps = Mapping[int, float]  # depth or length → nDCG@10


@dataclass(frozen=True)
class QualityTable:
    """One data set. tiers: when all candidates are scored; depths, tokens: by tier; cascades: by (small, large)
    and how many candidates the large one scores."""

    tiers: Mapping[str, float]
    retriever: float = 0.0
    depths: Mapping[str, Steps] = field(default_factory=dict)
    tokens: Mapping[str, Steps] = field(default_factory=dict)
    cascades: Mapping[tuple[str, str], Steps] = field(default_factory=dict)

    @property
    def detailed(self) -> bool:
        """Whether more is known than one figure per tier."""
        return bool(self.depths or self.tokens or self.cascades)

    def at_depth(self, tier: str, scored: int, given: int) -> float:
        """Quality when `tier` scores the first `scored` of `given` candidates.

        Between the depths of the table linear in log(depth), from the retriever's own quality at depth 1. Without
        depths the gain over the retriever is taken to grow evenly with the share that is scored: a guess that
        ranks plans, and is marked as degraded where it is used.
        """
        if scored <= 0:
            return self.retriever
        if scored >= given:
            return self.tiers[tier]
        steps = self.depths.get(tier)
        if not steps:
            return self._shrunk(tier, scored / given)
        known = sorted({1: self.retriever, **steps}.items())
        for (low, worse), (high, better) in itertools.pairwise(known):
            if scored <= high:
                return worse + (better - worse) * math.log(scored / low) / math.log(high / low)
        return known[-1][1]

    def at_length(self, tier: str, max_tokens: int, share: float) -> float:
        """Quality when pairs are cut to `max_tokens`, which leaves `share` of all tokens. Without a figure in the
        table the same guess as for depths."""
        known = self.tokens.get(tier, {}).get(max_tokens)
        return self._shrunk(tier, share) if known is None else known

    def of_cascade(self, small: str, large: str, scored: int) -> float:
        """Quality when `small` scores everything and `large` the best `scored`: of the nearest depth below that the
        table has; without one, that of `small` alone."""
        below = [step for step in self.cascades.get((small, large), ()) if step <= scored]
        return self.cascades[small, large][max(below)] if below else self.tiers[small]

    def _shrunk(self, tier: str, share: float) -> float:
        return self.retriever + (self.tiers[tier] - self.retriever) * share


def quality_table(config: FleetConfig) -> QualityTable:
    """As the fleet file has it. Raises ConfigError when its table cannot be read or lacks the data set."""
    settings, tiers = config.quality, {name: tier.quality for name, tier in config.tiers.items()}
    if settings.table is None:
        return QualityTable(tiers, settings.retriever)
    try:
        data_sets = json.loads(Path(settings.table).read_text(encoding="utf-8"))["data_sets"]
        name = settings.data_set or next(iter(data_sets))
        if name not in data_sets:
            raise ConfigError(f"quality.data_set: {name!r} is not in {settings.table}; it has {', '.join(data_sets)}")
        return parse_table(data_sets[name], tiers, settings.retriever)
    except OSError as error:
        raise ConfigError(f"quality.table {settings.table}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ConfigError(f"quality.table {settings.table} is not a table of qualities: {error!r}") from error


def parse_table(data: Mapping[str, Any], tiers: Mapping[str, float], retriever: float) -> QualityTable:
    """One data set of the file; what it does not say of a tier is as the fleet file has it."""
    depths = {tier: steps_of(known) for tier, known in data.get("tiers", {}).items() if isinstance(known, dict)}
    whole = {tier: float(known) for tier, known in data.get("tiers", {}).items() if not isinstance(known, dict)}
    whole |= {tier: steps[max(steps)] for tier, steps in depths.items()}
    cascades = {}
    for pair, known in data.get("cascades", {}).items():
        small, large = pair.split(">")
        if small in tiers and large in tiers:
            cascades[small, large] = steps_of(known)
    return QualityTable(
        {tier: whole.get(tier, quality) for tier, quality in tiers.items()},
        float(data.get("retriever", retriever)),
        depths,
        {tier: steps_of(known) for tier, known in data.get("tokens", {}).items()},
        cascades,
    )


def steps_of(known: Mapping[str, Any]) -> dict[int, float]:
    return {int(step): float(quality) for step, quality in known.items()}
