"""In what time a group's backlog has to be worked off, as its SLO classes would have it."""

from collections.abc import Mapping

from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.messages import Work
from rankfleet.core.pairs import MIN_CHUNK_TOKENS
from rankfleet.estimates.latency import LatencyModel

TYPICAL_TOKENS = 128  # of a pair, where lengths matter to the time


def drains_s(fleet: FleetConfig, live: LiveSettings, models: Mapping[str, LatencyModel]) -> dict[str, float]:
    """By group: `drain_share` of the shortest budget within which its fastest tier can do anything, a chunk of
    MIN_CHUNK_TOKENS. Groups without such a class, or not measured yet, are left out."""
    pairs = MIN_CHUNK_TOKENS // TYPICAL_TOKENS
    work = Work(pairs, MIN_CHUNK_TOKENS, pairs * TYPICAL_TOKENS**2)
    found = {}
    for name, group in fleet.groups.items():
        times_ms = [models[tier].p99_ms(work) + fleet.overhead_ms for tier in group.tiers if tier in models]
        budgets_ms = [slo.slo_ms for slo in live.slo_classes.values() if slo.slo_ms is not None]
        if served := [ms for ms in budgets_ms if times_ms and ms >= min(times_ms)]:
            found[name] = live.autoscaling.drain_share * min(served) / 1e3
    return found
