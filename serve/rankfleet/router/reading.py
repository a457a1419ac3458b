"""The texts of requests: the least number of their tokens, their token ids, and the best part of each document."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import Ranking, RerankRequest
from rankfleet.core.passages import PassageRule
from rankfleet.core.text_options import AS_SENT
from rankfleet.core.work import Work
from rankfleet.engine.text.inline import INLINE_ENCODED, run
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.calibration import Calibration
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.answer import ResolvedRequest
from rankfleet.router.spans import Passage, with_spans
from rankfleet.router.tenants import TenantLimits
from rankfleet.router.token_bound import TokenLowerBound
from rankfleet.router.tokenize import TokenizedTexts, tokenize
from rankfleet.router.turns import Turns


@dataclass
class Learned:
    """What the texts of earlier requests have left behind, for all versions of a fleet that a process serves.

    cache: token ids of documents.
    bounds: by tenant: texts of one in another script would make the estimates for others far too high.
    """

    cache: TokenCache
    bounds: defaultdict[str | None, TokenLowerBound] = field(default_factory=lambda: defaultdict(TokenLowerBound))


class TextReader:
    """Reads the texts of requests for one version of the fleet. Long ones are read in threads, on as many cores as
    their tenant may use."""

    def __init__(
        self,
        config: FleetConfig,
        tokenizers: Mapping[str, PairTokenizer],
        limits: TenantLimits,
        turns: Turns,
        clock: Callable[[], float],
        learned: Learned | None,
    ) -> None:
        """tokenizers: by tier; tiers that share a vocabulary may share one object. learned: by the version before this
        one; None if this is the first."""
        self.learned = learned or Learned(TokenCache(int(config.token_cache_mb * 1e6)))
        self._config = config
        self._tokenizers = tokenizers
        self._limits = limits
        self._turns = turns
        self._clock = clock

    def take_over(self) -> None:
        """Be the version whose settings count."""
        self.learned.cache.resize(int(self._config.token_cache_mb * 1e6))

    def pair_limits(self, tiers: tuple[str, ...]) -> dict[str, int]:
        """The longest pair of each tier in tokens."""
        longest = {tier: self._tokenizers[tier].max_tokens for tier in tiers}
        return {tier: min(tokens, self._config.tiers[tier].max_tokens or tokens) for tier, tokens in longest.items()}

    def lower_bound(self, resolved: ResolvedRequest) -> dict[str, Work]:
        """The least work that this request can be, by tier; empty if nothing is known of its tenant's texts."""
        bound = self.learned.bounds[resolved.request.tenant]
        return bound.lower_bound(resolved.request, self._shortest_cuts(resolved))

    def learn(self, resolved: ResolvedRequest, lengths: Mapping[str, Lengths]) -> None:
        """Learn from the lengths of a request how many tokens its tenant's texts have."""
        request = resolved.request
        if not request.probe and request.options.instruction is None:  # tokens without characters of their own
            self.learned.bounds[request.tenant].learn(request, lengths, self._shortest_cuts(resolved))

    async def read(self, request: RerankRequest, tiers: tuple[str, ...]) -> TokenizedTexts:
        """Encode the texts once for each vocabulary, and count the passages of long documents as pairs of their tenant:
        also if its client leaves meanwhile, since a thread goes on."""
        config, passages = self._config, None
        asked, allowed = request.options.max_passages, config.limits.max_passages
        if asked or (request.long_documents or config.long_documents) == "max_passage":
            passages = PassageRule(config.passage_overlap_tokens, min(allowed, asked or allowed))
        tokenizers = {tier: (self._tokenizers[tier], config.tiers[tier].max_tokens) for tier in tiers}

        async def work() -> TokenizedTexts:
            texts = await tokenize(request, tokenizers, self.learned.cache, passages)
            more = max(map(len, texts.layouts.values())) - len(request.documents)
            self._limits.take_pairs(request.tenant, max(0, more), self._clock(), must_fit=False)
            return texts

        # Short texts need no thread.
        characters = sum(request.characters) + sum(map(len, request.each_query))
        return await (self._turns.take(request.tenant, work) if characters > INLINE_ENCODED else work())

    async def with_spans(
        self,
        ranking: Ranking,
        best: Mapping[int, Passage],
        resolved: ResolvedRequest,
        calibration: Mapping[str, Calibration],
    ) -> Ranking:
        """The ranking, and where in each document its best passage is. best: by place, the passage that scored best."""
        places = resolved.places
        passages = best if places is None else {int(places[place]): passage for place, passage in best.items()}
        span_of = {passage.tier: self._tokenizers[passage.tier].encoder.span for passage in best.values()}
        characters = sum(len(ranking.texts[place]) for place, passage in passages.items() if not passage.is_whole)
        added = partial(with_spans, ranking, passages, span_of, calibration)
        work = partial(run, added, characters, INLINE_ENCODED)
        return await (self._turns.take(resolved.request.tenant, work) if characters > INLINE_ENCODED else work())

    def _shortest_cuts(self, resolved: ResolvedRequest) -> dict[str, int]:
        """By tier, how many tokens a pair of this request has at least if it has lost some."""
        limits = self.pair_limits(resolved.target.tiers)
        options = resolved.request.options
        return limits if options is AS_SENT else {tier: options.shortest_cut(limit) for tier, limit in limits.items()}
