"""Whoever scores the candidates of queries: a tier, by the engine, or whom tiers are compared with."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rankfleet.clients.parts import Scored
from rankfleet.core.errors import RankfleetError
from rankfleet.evaluate.kept_scores import Question

if TYPE_CHECKING:
    from rankfleet.engine.runtime.scorer import Reranker
    from rankfleet.engine.text.token_cache import TokenCache

TIMED = 50  # queries of each collection that a tier scores one at a time, for its latency
TOKEN_CACHE_BYTES = 2**29


class Ranker(Protocol):
    """name: of the row in the table; identity: another one for other scores."""

    name: str
    identity: str

    def score(self, questions: Sequence[Question]) -> list[Scored]: ...


class Server(Protocol):
    """Scores the documents of one query, and times it: `clients.server.RerankServer` and the like."""

    def timed(self, query: str, documents: Sequence[str]) -> Scored: ...


class ServerRanker:
    """A server, or a process, which is asked one query at a time."""

    def __init__(self, name: str, identity: str, server: Server) -> None:
        self.name, self.identity, self._server = name, identity, server

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        return [self._server.timed(each.text, [hit.text for hit in each.hits]) for each in questions]


class EngineRanker:
    """A tier on this computer.

    The first queries of each collection are scored one at a time, as a request would be. All others are one stream:
    each text is tokenized once for all tiers with its vocabulary, and the pairs of all queries fill the engine's
    batches together.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        load: "Callable[[], Reranker]",
        tokens: "TokenCache",
        timed: Counter[str],
        use_threads: Callable[[bool], object] = lambda alone: None,
        replicas: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """load: called for each list of questions; may give the same one again. tokens: ids of documents that were
        seen. timed: how many queries of each collection were scored one at a time before. use_threads: called before
        queries are scored one at a time, as they would be served (True), and before a stream (False). replicas: how
        many replicas have as many threads as a stream, whose seconds count so many times."""
        self.name, self.identity = name, identity
        self._load, self._tokens, self._timed = load, tokens, Counter(timed)
        self._use_threads, self._replicas, self._clock = use_threads, replicas, clock

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        """Raises RankfleetError for a score that is not finite."""
        reranker, found, stream = self._load(), dict[int, Scored](), list[int]()
        self._use_threads(True)
        for place, question in enumerate(questions):
            if self._timed[question.data] >= TIMED:
                stream.append(place)
                continue
            self._timed[question.data] += 1
            started = self._clock()
            logits = reranker.score(question.text, [hit.text for hit in question.hits])
            found[place] = Scored(logits.astype(np.float64), self._clock() - started)
        if stream:
            self._use_threads(False)
            found |= zip(stream, self._stream(reranker, [questions[place] for place in stream]), strict=True)
        for place, question in enumerate(questions):
            if not np.isfinite(found[place].scores).all():
                raise RankfleetError(
                    f"{self.name}: query {question.query!r} got scores that are not finite; try the tier in float32"
                )
        return [found[place] for place in range(len(questions))]

    def _stream(self, reranker: "Reranker", questions: Sequence[Question]) -> list[Scored]:
        started, tokenizer, counts = self._clock(), reranker.tokenizer, [len(each.hits) for each in questions]
        queries = tokenizer.encoder.encode_queries([each.text for each in questions])
        reach = max(map(tokenizer.reach, queries))
        texts = [hit.text for each in questions for hit in each.hits]
        documents, _ = asyncio.run(self._tokens.encode(tokenizer.encoder, texts, reach))
        own = [query for query, count in zip(queries, counts, strict=True) for _ in range(count)]
        pairs = tokenizer.build_pairs(own, documents, tokenizer.layout(own, documents))
        logits = reranker.scorer.score(pairs).astype(np.float64)
        each_s = (self._clock() - started) * self._replicas / len(texts)
        parts = np.split(logits, np.cumsum(counts)[:-1])
        return [Scored(part, each_s * len(part), timed=False) for part in parts]
