"""What a request costs beside the queue and the engine: the time of client and router, and the way to the replica."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class RequestCost:
    """Milliseconds of one request, its documents being known to the router's cache.

    request_ms: of client and router, until its chunks are sent
    document_ms: the same, more for each document
    reply_ms: of router and client, once its scores are there
    hop_ms: from the router to the replica and back. Occupies neither.
    """

    request_ms: float = 0.0
    document_ms: float = 0.0
    reply_ms: float = 0.0
    hop_ms: float = 0.0

    def before_ms(self, documents: int) -> float:
        """Time of client and router until the chunks are sent."""
        return self.request_ms + self.document_ms * documents

    def of_total(self, total_ms: float, documents: int = 1) -> "RequestCost":
        """This cost, with the hop as what is left of the total of a request with so many documents; at least 0."""
        return replace(self, hop_ms=max(0.0, total_ms - self.before_ms(documents) - self.reply_ms))

    def to_json(self) -> dict[str, float]:
        return {name: round(ms, 4) for name, ms in asdict(self).items() if name != "hop_ms"}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "RequestCost":
        """Without the hop, which no profile has. Raises ValueError for times that cannot be."""
        values = {name: float(data[name]) for name in ("request_ms", "document_ms", "reply_ms")}
        if not all(math.isfinite(ms) and ms >= 0 for ms in values.values()):
            raise ValueError(f"times must be finite and not negative: {values}")
        return RequestCost(**values)
