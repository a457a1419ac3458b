"""What simulated requests cost: their work, frontiers and device times. Results are cached, since sizes repeat."""

from collections.abc import Mapping

from rankfleet.core.config import FleetConfig
from rankfleet.core.work import Work
from rankfleet.estimates.frontier import Frontier, frontier_of, quality_range
from rankfleet.estimates.latency import LatencyModel

DEFAULT_MAX_TOKENS = 512  # of a pair, for tiers whose limit the fleet file does not give


class RequestCosts:
    """Costs of requests whose pairs all have the same length."""

    def __init__(self, fleet: FleetConfig, models: Mapping[str, LatencyModel], pair_tokens: int) -> None:
        self._models = models
        self._pair_tokens = {
            name: min(pair_tokens, tier.max_tokens or DEFAULT_MAX_TOKENS) for name, tier in fleet.tiers.items()
        }
        self._quality = {name: tier.quality for name, tier in fleet.tiers.items()}
        self._quality_range = quality_range(self._quality.values())
        self._batch_tokens = {name: fleet.groups[fleet.group_of(name)].batch_tokens for name in fleet.tiers}
        self._works: dict[int, dict[str, Work]] = {}
        self._min_ms: dict[int, float] = {}
        self._frontiers: dict[tuple[Work, tuple[str, ...]], Frontier] = {}

    def work(self, pairs: int) -> dict[str, Work]:
        """The work of a request by tier, with pairs cut to the tier's limit."""
        if pairs not in self._works:
            self._works[pairs] = {
                tier: Work(pairs, pairs * tokens, pairs * tokens * tokens) for tier, tokens in self._pair_tokens.items()
            }
        return self._works[pairs]

    def min_ms(self, pairs: int) -> float:
        """Amortized device time of a request at its cheapest tier, 99th percentile."""
        if pairs not in self._min_ms:
            frontiers = (self.frontier((tier,), work) for tier, work in self.work(pairs).items())
            self._min_ms[pairs] = min(frontier.points[0].amortized_ms for frontier in frontiers)
        return self._min_ms[pairs]

    def frontier(self, tiers: tuple[str, ...], work: Work) -> Frontier:
        """The frontier of a chunk that these tiers, all of one group, may score."""
        if (work, tiers) not in self._frontiers:
            options = [self._models[tier].option(tier, self._quality[tier], work) for tier in tiers]
            batch_share = work.tokens / self._batch_tokens[tiers[0]]
            self._frontiers[work, tiers] = frontier_of(options, batch_share, self._quality_range)
        return self._frontiers[work, tiers]

    def amortized_ms(self, tier: str, work: Work) -> float:
        """Mean device time of a chunk in a full batch."""
        return self._models[tier].amortized_ms(work, min(1.0, work.tokens / self._batch_tokens[tier]))
