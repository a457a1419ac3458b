"""Prometheus metrics, through Ray's own: they appear on every node's metrics port as `ray_rankfleet_…`."""

from typing import Protocol

from ray.util.metrics import Counter, Gauge, Histogram

from rankfleet.core.messages import Ranking

LATENCY_MS: list[float] = [5, 10, 20, 35, 50, 75, 100, 150, 200, 350, 500, 1000, 2000, 5000]


class Recorder(Protocol):
    """Hears of every answer and every refusal."""

    def answered(self, ranking: Ranking) -> None: ...

    def refused(self, code: str) -> None: ...


class Telemetry:
    """What a router counts."""

    def __init__(self) -> None:
        self._requests = Counter(
            "rankfleet_requests",
            "Requests answered, by tier, arm and whether the budget was met",
            ("tier", "arm", "slo"),
        )
        self._refused = Counter("rankfleet_refused", "Requests refused, by reason", ("code",))
        self._latency = Histogram(
            "rankfleet_latency_ms",
            "Arrival at the router to answer",
            boundaries=LATENCY_MS,
            tag_keys=("tier",),
        )
        self._queue = Histogram(
            "rankfleet_queue_ms", "Time in a replica's queue", boundaries=LATENCY_MS, tag_keys=("tier",)
        )
        self._pairs = Counter("rankfleet_pairs", "Pairs scored", ("tier",))
        self._documents = Counter(
            "rankfleet_documents", "Documents ranked, by whether their token ids were cached", ("tier", "cached")
        )

    def answered(self, ranking: Ranking) -> None:
        tier = {"tier": ranking.plan.tier}
        arm = f"{ranking.assignment.experiment}/{ranking.assignment.arm}" if ranking.assignment else ""
        slo = {True: "met", False: "missed", None: "none"}[ranking.met]
        self._requests.inc(1, tier | {"arm": arm, "slo": slo})
        self._latency.observe(ranking.timing.total_ms, tier)
        self._queue.observe(ranking.timing.queue_ms, tier)
        self._pairs.inc(ranking.pairs, tier)
        for cached, count in (("yes", ranking.cached), ("no", len(ranking.texts) - ranking.cached)):
            if count:  # Ray's counters refuse 0
                self._documents.inc(count, tier | {"cached": cached})

    def refused(self, code: str) -> None:
        self._refused.inc(1, {"code": code})


class GroupTelemetry:
    """What a replica of a group reports."""

    def __init__(self, group: str) -> None:
        self._tags = {"group": group}
        self._backlog = Gauge("rankfleet_backlog_seconds", "Predicted work queued and running", ("group",))
        self._batch = Histogram(
            "rankfleet_batch_tokens",
            "Tokens in a device batch",
            boundaries=[float(2**i) for i in range(6, 18)],
            tag_keys=("group",),
        )

    def batch(self, tokens: int, backlog_s: float) -> None:
        self._batch.observe(tokens, self._tags)
        self.backlog(backlog_s)

    def backlog(self, seconds: float) -> None:
        self._backlog.set(seconds, self._tags)
