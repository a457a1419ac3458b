"""The least that a request can be, known before its texts are tokens."""

from collections import deque
from collections.abc import Mapping

import numpy as np

from rankfleet.core.messages import RerankRequest, Work

REMEMBERED = 256  # requests, of which the one with fewest tokens per character counts
MARGIN = 0.9  # for texts with still fewer


class TokenLowerBound:
    """Learns how many tokens characters become, so that what is surely too much can be refused for nothing."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=REMEMBERED)
        self._least = 0.0

    def learn(self, request: RerankRequest, work: Mapping[str, Work], limits: Mapping[str, int]) -> None:
        """work: of its pairs, by tier; limits: longest pair in tokens. A request that was cut teaches nothing."""
        characters = sum(map(len, request.documents)) + len(request.documents) * len(request.query)
        min_tokens = min((w.tokens for w in work.values()), default=0)
        longest = max(map(len, request.documents)) + len(request.query)
        if min_tokens == 0 or longest > min(limits.values()):
            return  # in characters: so none can have been cut
        left = self._ratios[0] if len(self._ratios) == REMEMBERED else np.inf
        ratio = min_tokens / characters
        self._ratios.append(ratio)
        self._least = min(self._ratios) if left <= self._least else min(self._least or ratio, ratio)

    def lower_bound(self, request: RerankRequest, limits: Mapping[str, int]) -> dict[str, Work]:
        """By tier; empty while nothing has been learnt."""
        if not self._ratios:
            return {}
        characters = np.fromiter(map(len, request.documents), np.float64, len(request.documents))
        lengths = np.maximum(1.0, self._least * MARGIN * (characters + len(request.query))).astype(np.int64)
        return {tier: Work.of(np.minimum(lengths, limit)) for tier, limit in limits.items()}
