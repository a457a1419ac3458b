"""Drain times: how fast a group should work off its backlog, by the SLO classes it serves."""

from collections.abc import Mapping

from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.pairs import MIN_CHUNK_TOKENS
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel

TYPICAL_PAIR_TOKENS = 128  # squared lengths enter the time of a chunk


def drain_times_s(fleet: FleetConfig, live: LiveSettings, models: Mapping[str, LatencyModel]) -> dict[str, float]:
    """Drain time by group: drain_share · the shortest budget among the SLO classes that the group can serve.

    It can serve a class if its fastest tier scores a chunk of MIN_CHUNK_TOKENS within the budget, at the 99th
    percentile. Groups that can serve none, or whose tiers have not been measured yet, are left out.
    """
    pairs = MIN_CHUNK_TOKENS // TYPICAL_PAIR_TOKENS
    chunk = Work(pairs, MIN_CHUNK_TOKENS, pairs * TYPICAL_PAIR_TOKENS**2)
    budgets_ms = [slo.slo_ms for slo in live.slo_classes.values() if slo.slo_ms is not None]
    found = {}
    for name, group in fleet.groups.items():
        times_ms = [models[tier].p99_ms(chunk) + fleet.network_ms for tier in group.tiers if tier in models]
        if served := [budget_ms for budget_ms in budgets_ms if times_ms and budget_ms >= min(times_ms)]:
            found[name] = live.autoscaling.drain_share * min(served) / 1e3
    return found
