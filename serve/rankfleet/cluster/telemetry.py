"""Prometheus metrics, through Ray's own: they appear on every node's metrics port as `ray_rankfleet_…`."""

import math

from ray.util.metrics import Counter, Gauge, Histogram

from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED
from rankfleet.estimates.load import LoadCounters, ReplicaLoad

LATENCY_MS: list[float] = [5, 10, 20, 35, 50, 75, 100, 150, 200, 350, 500, 1000, 2000, 5000]


def add(counter: Counter, amount: float, tags: dict[str, str]) -> None:
    """Ray's counters refuse 0, which a reply in which nothing was scored comes to."""
    if amount > 0:
        counter.inc(amount, tags)


class Telemetry:
    """What a router counts."""

    def __init__(self) -> None:
        self._requests = Counter(
            "rankfleet_requests",
            "Requests answered, by tier, SLO class, arm, whether the budget was met, and what was left out",
            ("tier", "slo_class", "arm", "slo", "left_out"),
        )
        self._refused = Counter("rankfleet_refused", "Requests refused, by reason", ("code",))
        self._lost = Counter("rankfleet_lost_chunks", "Chunks lost with their replica and sent again", ("group",))
        self._latency = Histogram(
            "rankfleet_latency_ms",
            "Arrival at the router to answer",
            boundaries=LATENCY_MS,
            tag_keys=("tier",),
        )
        self._accuracy = Histogram(
            "rankfleet_time_of_prediction",
            "Time from arrival to answer as a share of the 99th percentile that was predicted",
            boundaries=[0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 4],
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
        tier = {"tier": ranking.plan.tier or UNSCORED}
        arm = f"{ranking.assignment.experiment}/{ranking.assignment.arm}" if ranking.assignment else ""
        slo = {True: "met", False: "missed", None: "none"}[ranking.met]
        tags = {"slo_class": ranking.slo_class or "", "arm": arm, "slo": slo, "left_out": left_out(ranking)}
        self._requests.inc(1, tier | tags)
        if math.isfinite(ranking.plan.predicted_ms) and ranking.plan.predicted_ms > 0:
            self._accuracy.observe(ranking.timing.total_ms / ranking.plan.predicted_ms, tier)
        self._latency.observe(ranking.timing.total_ms, tier)
        self._queue.observe(ranking.timing.queue_ms, tier)
        add(self._pairs, ranking.pairs, tier)
        for cached, count in (("yes", ranking.cached), ("no", len(ranking.texts) - ranking.cached)):
            add(self._documents, count, tier | {"cached": cached})

    def refused(self, code: str) -> None:
        self._refused.inc(1, {"code": code})

    def lost(self, group: str) -> None:
        self._lost.inc(1, {"group": group})


def left_out(ranking: Ranking) -> str:
    """all: nothing was scored; part: tokens or candidates; stage: the second one; empty for nothing."""
    if not ranking.stages:
        return "all"
    return "stage" if ranking.partial else "part" if ranking.plan.degraded else ""


class GroupTelemetry:
    """What a replica of a group reports."""

    def __init__(self, group: str) -> None:
        self._tags = {"group": group}
        self._backlog = Gauge(
            "rankfleet_backlog_seconds", "Predicted work queued and running, at preferred tiers", ("group",)
        )
        self._wanted = Counter("rankfleet_work_wanted_seconds", "Work that came, at its preferred tiers", ("group",))
        self._done = Counter("rankfleet_work_done_seconds", "Work done, at the tiers that did it", ("group",))
        self._below = Counter(
            "rankfleet_work_below_seconds", "Work, at its preferred tiers, that a lesser one has done", ("group",)
        )
        self._counted = LoadCounters()
        self._batch = Histogram(
            "rankfleet_batch_tokens",
            "Tokens in a device batch",
            boundaries=[float(2**i) for i in range(6, 18)],
            tag_keys=("group",),
        )

    def batch(self, tokens: int, backlog_s: float) -> None:
        self._batch.observe(tokens, self._tags)

    def load(self, load: ReplicaLoad) -> None:
        """What the autoscaler is told."""
        self._backlog.set(load.backlog_s, self._tags)
        counts, before = load.counters, self._counted
        self._counted = counts
        for counter, seconds in (
            (self._wanted, counts.arrived_load_s - before.arrived_load_s),
            (self._done, counts.device_load_s - before.device_load_s),
            (self._below, counts.downgraded_load_s - before.downgraded_load_s),
        ):
            add(counter, seconds, self._tags)
