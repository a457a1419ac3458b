"""Teachers: whatever scores the documents of a query, here or on a server. Scores are raw logits."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import numpy as np

from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.distill.sources import Group

if TYPE_CHECKING:
    from rankfleet.engine.checkpoint.files import Checkpoint

BATCH_DOCUMENTS = 100  # of one request: a tenth of what a fleet accepts by default
TRIES = 8
MAX_WAIT_S = 30.0  # between tries, where the server names no time
TIMEOUT_S = 120.0
BUDGET_MS = 600_000.0  # so that the server scores everything, and work with a shorter budget goes first
RETRIED = (429, 502, 503, 504)
DECIMALS = 5  # of stored scores


class Scores(Protocol):
    """Anything that scores documents for a query, such as `engine.runtime.scorer.Reranker`."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray: ...


class Teacher(Protocol):
    """Who scores. name: for people; identity: another one for another model."""

    name: str
    identity: str

    def load(self) -> Scores: ...


class LocalTeacher:
    """A checkpoint on this computer. dtype, max_tokens: as in `Reranker.load`."""

    def __init__(self, name: str, checkpoint: "Checkpoint", dtype: str = "auto", max_tokens: int | None = None) -> None:
        self.name = name
        self.identity = (
            f"{Path(name).name} with weights {checkpoint.weights_digest}, {dtype}, {max_tokens or 'all'} tokens"
        )
        self._checkpoint, self._dtype, self._max_tokens = checkpoint, dtype, max_tokens

    def load(self) -> Scores:
        from rankfleet.engine.runtime.scorer import Reranker

        return Reranker.load(self._checkpoint, self._dtype, max_tokens=self._max_tokens)


class ServerTeacher:
    """The tier with the highest quality of a Rankfleet server, or the one named behind a # in the URL."""

    def __init__(
        self, url: str, client: httpx.Client | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """Asks the server for its tiers. Raises InvalidRequest where it has none of that name, RankfleetError where it
        does not answer."""
        self.address, _, wanted = url.partition("#")
        self._client = client or httpx.Client(timeout=TIMEOUT_S, trust_env=False)  # never through a proxy
        self._sleep = sleep
        listed = self.ask("GET", "/v1/models", tries=1).get("data", [])
        tiers = {model["id"]: model for model in listed if model.get("kind") == "tier"}
        if not tiers or (wanted and wanted not in tiers):
            has = f"it has {', '.join(tiers)}" if tiers else "it lists no tiers at /v1/models"
            raise InvalidRequest(f"--teacher {url}: no such tier; {has}")
        self.tier = wanted or max(tiers, key=lambda name: float(tiers[name].get("quality", 0.0)))
        self.name = f"{self.address.rstrip('/')}#{self.tier}"
        self.identity = f"{self.name}, {tiers[self.tier].get('model')}"

    def load(self) -> Scores:
        return self

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Raw logits, float64 [documents]. Raises RankfleetError if the server did not score all of them itself."""
        parts = [
            self._score(query, documents[start : start + BATCH_DOCUMENTS])
            for start in range(0, len(documents), BATCH_DOCUMENTS)
        ]
        return np.concatenate([np.empty(0), *parts])

    def _score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        body = {
            "query": query,
            "documents": list(documents),
            "model": self.tier,
            "slo_ms": BUDGET_MS,
            "long_documents": "truncate",  # a student reads beginnings only, in training
        }
        try:
            reply = self.ask("POST", "/v1/rerank", body)
        except TooMuch:
            if len(documents) == 1:
                raise
            half = len(documents) // 2
            return np.concatenate([self._score(query, documents[:half]), self._score(query, documents[half:])])
        answered = reply["rankfleet"]["tier"]
        logits = {result["index"]: result["logit"] for result in reply["results"]}
        scores = [logits.get(i) for i in range(len(documents))]
        if answered != self.tier or None in scores:
            raise RankfleetError(
                f"{self.address} answered with {answered} and {len(documents) - scores.count(None)} of "
                f"{len(documents)} scores, where all were asked of {self.tier}: {reply['rankfleet'].get('reason')}"
            )
        return np.array(scores, dtype=np.float64)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, tries: int = TRIES) -> dict[str, Any]:
        """The server's reply. Asks again where it is overloaded, after the time that it names."""
        url = self.address.rstrip("/") + path
        for tried in range(1, tries + 1):
            wait_s = min(MAX_WAIT_S, 2.0 ** (tried - 1))
            try:
                reply = self._client.request(method, url, json=body)
            except httpx.TransportError as error:
                problem = f"{url} does not answer ({type(error).__name__}: {error})"
            except (httpx.InvalidURL, ValueError) as error:
                raise InvalidRequest(f"--teacher {self.address}: {error}") from error
            else:
                if reply.status_code == 200:
                    return decoded(reply, url)
                problem = f"{url} answers {reply.status_code}: {said(reply)}"
                if reply.status_code == 413:
                    raise TooMuch(problem)
                if reply.status_code not in RETRIED:
                    raise RankfleetError(problem)
                wait_s = retry_after_s(reply, wait_s)
            if tried < tries:
                self._sleep(wait_s)
        again = f"; gave up after {tries} tries. Run the same command again to go on from here" if tries > 1 else ""
        raise RankfleetError(problem + again)


class TooMuch(RankfleetError):
    """The server takes fewer documents or bytes in one request."""


def decoded(reply: httpx.Response, url: str) -> dict[str, Any]:
    try:
        found = reply.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RankfleetError(f"{url} does not answer with JSON: is a Rankfleet server there?")
    return found


def said(reply: httpx.Response) -> str:
    """The message of an error reply."""
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]


def retry_after_s(reply: httpx.Response, otherwise: float) -> float:
    """Seconds after which the server wants to be asked again."""
    try:
        if "retry-after-ms" in reply.headers:
            return float(reply.headers["retry-after-ms"]) / 1e3
        return float(reply.headers.get("retry-after", otherwise))
    except ValueError:
        return otherwise


def score_groups(teacher: Scores, groups: Iterable[Group], path: Path, progress: Callable[[int], object]) -> None:
    """Write the teacher's scores of each group to `path`, one line for a group.

    Lines that are there are kept, and scoring goes on after them. progress: called with the number of groups done.
    Raises RankfleetError for a score that is not finite.
    """
    done = 0
    if path.exists():
        drop_half_line(path)
        done = path.read_bytes().count(b"\n")
    progress(done)
    with path.open("a", encoding="utf-8") as sink:
        for number, group in enumerate(groups):
            if number < done:
                continue
            scores = teacher.score(group.query, group.documents)
            if not np.isfinite(scores).all():
                raise RankfleetError(f"the teacher's scores of the query {group.query!r} are not finite")
            sink.write(json.dumps([round(float(score), DECIMALS) for score in scores]) + "\n")
            sink.flush()
            progress(number + 1)


def with_scores(groups: Iterable[Group], path: Path) -> Iterator[Group]:
    """The groups with the scores that `score_groups` wrote."""
    with path.open(encoding="utf-8") as lines:
        yield from (replace(group, scores=json.loads(line)) for group, line in zip(groups, lines, strict=True))


def drop_half_line(path: Path) -> None:
    """Truncate a file to its last whole line: a killed run may have left half a line."""
    with path.open("r+b") as file:
        written = file.read()
        if not written.endswith(b"\n"):
            file.truncate(written.rfind(b"\n") + 1)
