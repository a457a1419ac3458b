"""What a request costs beside the queue and the engine: the time of client and router, and the way to the replica."""

import math
from dataclasses import dataclass
from typing import Any

MEASURED = ("request_ms", "document_ms", "reply_ms")  # by `rankfleet profile`


@dataclass(frozen=True)
class RequestCost:
    """Milliseconds of one request, its documents being known to the router's cache.

    request_ms: of client and router, until its chunks are sent
    document_ms: the same, more for each document
    reply_ms: of router and client, once its scores are there
    hop_ms: of router and Ray, on the way of a chunk to its replica and of its scores back
    delay_ms: between client and router, which occupies neither
    """

    request_ms: float = 0.0
    document_ms: float = 0.0
    reply_ms: float = 0.0
    hop_ms: float = 0.0
    delay_ms: float = 0.0

    def before_ms(self, documents: int) -> float:
        """Time of client and router until the chunks are sent."""
        return self.request_ms + self.document_ms * documents

    def rest_of(self, total_ms: float, documents: int = 1) -> float:
        """What is left of the total of a request with so many documents; at least 0."""
        return max(0.0, total_ms - self.before_ms(documents) - self.reply_ms)

    def to_json(self) -> dict[str, float]:
        return {name: round(getattr(self, name), 4) for name in MEASURED}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "RequestCost":
        """Without the way to the replica, which no profile has. Raises ValueError for times that cannot be."""
        values = {name: float(data[name]) for name in MEASURED}
        if not all(math.isfinite(ms) and ms >= 0 for ms in values.values()):
            raise ValueError(f"times must be finite and not negative: {values}")
        return RequestCost(**values)
