"""Many documents in several requests, as small as the server wants them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rankfleet.core.errors import RankfleetError

BATCH_DOCUMENTS = 100  # of one request: a tenth of what a fleet accepts by default


class TooMuch(RankfleetError):
    """The server takes fewer documents or bytes in one request."""


@dataclass(frozen=True)
class Scored:
    """Scores of a query's documents, float64 [documents].

    seconds: until the answer, of all requests together, or of one replica of a tier; searches, tokens: what a server
    counts for its bill; timed: whether the query was scored alone, so that the seconds are its latency.
    """

    scores: np.ndarray
    seconds: float
    searches: float = 0
    tokens: float = 0
    timed: bool = True


def in_parts(documents: Sequence[str], score: Callable[[Sequence[str]], Scored]) -> Scored:
    """The scores of all documents, asked for in batches that are halved as often as the server says TooMuch.

    Raises TooMuch where it does not take a single document.
    """
    waiting = [documents[at : at + BATCH_DOCUMENTS] for at in range(0, len(documents), BATCH_DOCUMENTS)]
    done = []
    while waiting:
        part = waiting.pop(0)
        try:
            done.append(score(part))
        except TooMuch:
            if len(part) == 1:
                raise
            half = len(part) // 2
            waiting[:0] = [part[:half], part[half:]]
    return Scored(
        np.concatenate([np.empty(0), *(each.scores for each in done)]),
        sum(each.seconds for each in done),
        sum(each.searches for each in done),
        sum(each.tokens for each in done),
    )
