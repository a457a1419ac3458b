"""Prometheus metrics, exported by Ray on every node's metrics port with `ray_` before each name.

Names follow Prometheus's conventions: base units (`_seconds`, `_ratio`), and `_total` for counters. Ray's exporter adds
`_total` to the name of a counter that lacks it and leaves one that has it as it is, so the names here are complete.
"""

import math

from ray.util.metrics import Counter, Gauge, Histogram

from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED
from rankfleet.estimates.load import LoadCounters, ReplicaLoad

# Bucket boundaries, denser around typical budgets.
DURATION_S: list[float] = [0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1, 2, 5]


def add(counter: Counter, amount: float, tags: dict[str, str]) -> None:
    """Increase a counter. Ray's counters refuse 0, which is what a reply without scores adds to some of them."""
    if amount > 0:
        counter.inc(amount, tags)


class RouterTelemetry:
    """Metrics of a router."""

    def __init__(self) -> None:
        self._requests = Counter(
            "rankfleet_requests_total",
            "Requests answered, by tier, SLO class, arm, whether the budget was met, and what was left out",
            ("tier", "slo_class", "arm", "slo", "left_out"),
        )
        self._refused = Counter("rankfleet_refused_requests_total", "Requests refused, by error code", ("code",))
        self._lost = Counter(
            "rankfleet_lost_chunks_total", "Chunks lost with their replica and sent to another one", ("group",)
        )
        self._dropped = Counter(
            "rankfleet_dropped_events_total",
            "Events of requests, and feedback, that could not be written",
        )
        self._duration = Histogram(
            "rankfleet_request_duration_seconds",
            "Time from arrival at the router to the answer",
            boundaries=DURATION_S,
            tag_keys=("tier",),
        )
        self._to_predicted = Histogram(
            "rankfleet_request_duration_to_predicted_ratio",
            "Time from arrival to the answer, divided by its predicted 99th percentile",
            boundaries=[0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 4],
            tag_keys=("tier",),
        )
        self._queue = Histogram(
            "rankfleet_queue_duration_seconds",
            "Time in a replica's queue, of the slowest chunk of a request",
            boundaries=DURATION_S,
            tag_keys=("tier",),
        )
        self._stopped = Gauge(
            "rankfleet_experiment_arm_stopped",
            "1 for an arm of an experiment that was stopped for being worse than the control",
            ("experiment", "arm"),
        )
        self._shadows = Counter(
            "rankfleet_shadows_total",
            "Answers that were to be compared with a shadow arm's, by outcome: compared, dropped, failed",
            ("outcome",),
        )
        self._pairs = Counter("rankfleet_pairs_total", "Pairs scored", ("tier",))
        self._documents = Counter(
            "rankfleet_documents_total", "Documents ranked, by whether their token ids were cached", ("tier", "cached")
        )

    def answered(self, ranking: Ranking) -> None:
        """Count a request that was answered."""
        tier = {"tier": ranking.plan.tier or UNSCORED}
        arm = f"{ranking.assignment.experiment}/{ranking.assignment.arm}" if ranking.assignment else ""
        slo = {True: "met", False: "missed", None: "none"}[ranking.met]
        tags = {"slo_class": ranking.slo_class or "", "arm": arm, "slo": slo, "left_out": left_out(ranking)}
        self._requests.inc(1, tier | tags)
        if math.isfinite(ranking.plan.predicted_ms) and ranking.plan.predicted_ms > 0:
            self._to_predicted.observe(ranking.timing.total_ms / ranking.plan.predicted_ms, tier)
        self._duration.observe(ranking.timing.total_ms / 1e3, tier)
        self._queue.observe(ranking.timing.ms["queue"] / 1e3, tier)
        add(self._pairs, ranking.pairs, tier)
        for cached, count in (("yes", ranking.cached), ("no", len(ranking.texts) - ranking.cached)):
            add(self._documents, count, tier | {"cached": cached})

    def refused(self, code: str) -> None:
        """Count a request that was refused with this error code."""
        self._refused.inc(1, {"code": code})

    def lost(self, group: str) -> None:
        """Count a chunk that was lost with its replica."""
        self._lost.inc(1, {"group": group})

    def shadow(self, outcome: str) -> None:
        """Count what became of a comparison with a shadow arm."""
        self._shadows.inc(1, {"outcome": outcome})

    def arm_stopped(self, experiment: str, arm: str, stopped: bool) -> None:
        """Export whether an arm is stopped."""
        self._stopped.set(float(stopped), {"experiment": experiment, "arm": arm})

    def dropped(self, count: int) -> None:
        """Count events and feedback that were not written."""
        self._dropped.inc(count)


def left_out(ranking: Ranking) -> str:
    """What was not done: `all` for a request without any scores, `part` for tokens or candidates, `stage` for the
    second stage, and the empty string for nothing."""
    if not ranking.stages:
        return "all"
    return "stage" if ranking.partial else "part" if ranking.plan.degraded else ""


class GroupTelemetry:
    """Metrics of one replica of a group. Loads are in seconds of predicted device time (`estimates/load.py`)."""

    def __init__(self, group: str) -> None:
        self._tags = {"group": group}
        self._backlog = Gauge(
            "rankfleet_backlog_seconds", "Work queued and running, at the tiers of the unloaded plan", ("group",)
        )
        self._arrived = Counter(
            "rankfleet_arrived_load_seconds_total", "Work that arrived, at the tiers of the unloaded plan", ("group",)
        )
        self._served = Counter(
            "rankfleet_served_load_seconds_total", "Work done, at the tiers of the unloaded plan", ("group",)
        )
        self._device = Counter("rankfleet_device_load_seconds_total", "Work done, at the tiers that did it", ("group",))
        self._downgraded = Counter(
            "rankfleet_downgraded_load_seconds_total",
            "Work done by a lesser tier than that of the unloaded plan, at the tier of the unloaded plan",
            ("group",),
        )
        self._counted = LoadCounters()
        self._batch = Histogram(
            "rankfleet_batch_tokens",
            "Tokens in a device batch",
            boundaries=[float(2**i) for i in range(6, 18)],
            tag_keys=("group",),
        )

    def batch(self, tokens: int, backlog_s: float) -> None:
        """Count a device batch."""
        self._batch.observe(tokens, self._tags)

    def load(self, load: ReplicaLoad) -> None:
        """Export what the autoscaler is told."""
        self._backlog.set(load.backlog_s, self._tags)
        counts, before = load.counters, self._counted
        self._counted = counts
        for counter, seconds in (
            (self._arrived, counts.arrived_load_s - before.arrived_load_s),
            (self._served, counts.served_load_s - before.served_load_s),
            (self._device, counts.device_load_s - before.device_load_s),
            (self._downgraded, counts.downgraded_load_s - before.downgraded_load_s),
        ):
            add(counter, seconds, self._tags)
