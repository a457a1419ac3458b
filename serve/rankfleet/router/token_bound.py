"""A lower bound of a request's tokens, known before its texts are tokenized."""

from collections import deque
from collections.abc import Mapping

import numpy as np

from rankfleet.core.messages import RerankRequest
from rankfleet.core.work import Work
from rankfleet.estimates.lengths import Lengths

REMEMBERED = 256  # the last requests; the one with the fewest tokens per character counts
MARGIN = 0.9  # for texts with even fewer


class TokenLowerBound:
    """Learns how few tokens per character texts have, so that a request that is certainly too large can be refused
    without tokenizing it."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=REMEMBERED)
        self._min_ratio = 0.0

    def learn(self, request: RerankRequest, lengths: Mapping[str, Lengths], limits: Mapping[str, int]) -> None:
        """lengths: of the request's pairs, by tier. limits: the longest pair of each tier in tokens.
        Requests with a pair that may have been cut or split, or that is scored for several documents, are ignored."""
        documents = len(request.documents)
        if any(each.longest >= limits[tier] or len(each.tokens) != documents for tier, each in lengths.items()):
            return
        min_tokens = min((each.work.tokens for each in lengths.values()), default=0)
        if min_tokens == 0:
            return
        queries = zip(request.each_query, request.lists.counts, strict=True)
        characters = sum(request.characters) + sum(len(query) * count for query, count in queries)
        left = self._ratios[0] if len(self._ratios) == REMEMBERED else np.inf
        ratio = min_tokens / characters
        self._ratios.append(ratio)
        self._min_ratio = min(self._ratios) if left <= self._min_ratio else min(self._min_ratio or ratio, ratio)

    def lower_bound(self, request: RerankRequest, limits: Mapping[str, int]) -> dict[str, Work]:
        """By tier; empty before the first request was learned from."""
        if not self._ratios:
            return {}
        each = zip(request.each_query, request.lists.counts, strict=True)
        queries = [query for query, count in each for _ in range(count)]
        once = {pair: i for i, pair in enumerate(zip(queries, request.documents, strict=True))}
        characters = np.array(request.characters) + np.array([*map(len, queries)])
        characters = characters[[*once.values()]]
        lengths = np.maximum(1.0, self._min_ratio * MARGIN * characters).astype(np.int64)
        work = {limit: Work.of(np.minimum(lengths, limit)) for limit in {*limits.values()}}
        return {tier: work[limit] for tier, limit in limits.items()}
