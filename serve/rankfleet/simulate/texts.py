"""The texts of simulated requests: only their lengths matter, and all pairs of a request have the same."""

from collections.abc import Mapping

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import truncate
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.work import Work
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.texts import Part

DEFAULT_MAX_TOKENS = 512  # of a pair, for tiers whose limit the fleet file does not give


class SimulatedTexts:
    """One request's pairs by tier, each cut to the tier's limit. Requests of one size share one object.

    work, lengths: of all pairs, by tier.
    """

    passages = None
    cached = 0
    documents = None

    def __init__(self, fleet: FleetConfig, documents: int, pair_tokens: int) -> None:
        self._documents = documents
        self.lists = QueryLists((documents,))
        self._tokens = {name: min(pair_tokens, t.max_tokens or DEFAULT_MAX_TOKENS) for name, t in fleet.tiers.items()}
        self._parts: dict[tuple[int, int], Part] = {}  # (documents, tokens of a pair) → part
        by_tokens = {n: Lengths(np.full(documents, n)) for n in self._tokens.values()}
        self.lengths: Mapping[str, Lengths] = {name: by_tokens[n] for name, n in self._tokens.items()}
        self.work: Mapping[str, Work] = {name: lengths.work for name, lengths in self.lengths.items()}

    def alike(self, tiers: tuple[str, ...], tier: str) -> tuple[str, ...]:
        """As `RequestTexts` says."""
        return (tier, *(t for t in tiers if t != tier and self._tokens[t] == self._tokens[tier]))

    def document_lengths(self, tier: str) -> np.ndarray:
        """As `RequestTexts` says."""
        return np.full(self._documents, self._tokens[tier])

    async def part(self, tier: str, places: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        """As `RequestTexts` says. All token ids are 0."""
        count = self._documents if places is None else len(places)
        tokens = min(self._tokens[tier], max_tokens or self._tokens[tier])
        if (count, tokens) not in self._parts:
            lengths = np.full(count, tokens, np.int32)
            pairs = TokenizedPairs(np.zeros(count * tokens, np.int32), lengths, np.zeros(count, np.int32))
            self._parts[count, tokens] = Part(pairs, truncate(0, lengths.astype(np.int64), tokens))
        return self._parts[count, tokens]
