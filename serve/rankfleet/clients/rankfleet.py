"""A Rankfleet server as one of its tiers: raw logits of all documents, or an error."""

import time
from collections.abc import Callable, Sequence

import httpx
import numpy as np

from rankfleet.clients.http import JsonClient
from rankfleet.clients.parts import Scored, in_parts
from rankfleet.core.errors import InvalidRequest, RankfleetError

BUDGET_MS = 600_000.0  # so that the server scores everything, and work with a shorter budget goes first


class RankfleetServer:
    """The tier with the highest quality of a Rankfleet server, or the one named behind a # in the URL.

    name: address and tier; identity: another one for another model.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | None = None,
        sleep: Callable[[float], object] = time.sleep,
        key: str | None = None,
        key_name: str | None = None,
    ) -> None:
        """Asks the server for its tiers. Raises InvalidRequest where it has none of that name, RankfleetError where it
        does not answer."""
        address, _, wanted = url.partition("#")
        self._server = JsonClient(address, client, sleep, key=key, key_name=key_name)
        listed = self._server.ask("GET", "/v1/models", tries=1)
        models = listed.get("data", []) if isinstance(listed, dict) else []
        tiers = {model["id"]: model for model in models if model.get("kind") == "tier"}
        if not tiers or (wanted and wanted not in tiers):
            has = f"it has {', '.join(tiers)}" if tiers else "it lists no tiers at /v1/models"
            raise InvalidRequest(f"{url}: no such tier; {has}")
        self.tier = wanted or max(tiers, key=lambda name: float(tiers[name].get("quality", 0.0)))
        self.name = f"{self._server.address}#{self.tier}"
        self.identity = f"{self.name}, {tiers[self.tier].get('model')}"

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Raw logits, float64 [documents]. Raises RankfleetError if the server did not score all of them itself."""
        return self.timed(query, documents).scores

    def timed(self, query: str, documents: Sequence[str]) -> Scored:
        """The same, with the time that it took."""
        return in_parts(documents, lambda part: self._score(query, part))

    def _score(self, query: str, documents: Sequence[str]) -> Scored:
        body = {
            "query": query,
            "documents": list(documents),
            "model": self.tier,
            "slo_ms": BUDGET_MS,
            "long_documents": "truncate",  # a student reads beginnings only, in training
        }
        reply = self._server.ask("POST", "/v1/rerank", body)
        answered = reply["rankfleet"]["tier"]
        logits = {result["index"]: result["logit"] for result in reply["results"]}
        scores = [logits.get(i) for i in range(len(documents))]
        if answered != self.tier or None in scores:
            raise RankfleetError(
                f"{self._server.address} answered with {answered} and {len(documents) - scores.count(None)} of "
                f"{len(documents)} scores, where all were asked of {self.tier}: {reply['rankfleet'].get('reason')}"
            )
        return Scored(np.array(scores, dtype=np.float64), self._server.answered_s)
