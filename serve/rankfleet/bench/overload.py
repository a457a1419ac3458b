"""The overload scenario: the peak of goodput of a fleet, and what is left of it at several times that load."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rankfleet.bench.fault_fleet import STRICT
from rankfleet.bench.fault_traffic import HEAVY, FaultTraffic, proportions
from rankfleet.bench.outcomes import goodput, normal_again_s, refusals, reply_counts
from rankfleet.bench.traffic import Call, quantile

OVERLOAD = 5.0
CALM = 0.5  # share of the peak: the load before and after the overload
# The peak of goodput is searched from this share of the capacity, in steps by this factor, until a smaller share of the
# requests than that is in time.
FIRST_STEP, STEP, PAST_PEAK = 0.75, 1.25, 0.8
MIN_STEPS, MAX_STEPS = 3, 8
TOLERANCE = 1.5  # latencies up to this multiple of the calm p99 count as normal
MIN_STEP_S = 5.0
MIN_AFTER_S = 10.0


def overload(
    traffic: FaultTraffic, fastest: str, seconds: float, seed: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Find the peak of goodput, and measure it, the calm latency, and what OVERLOAD times the peak leaves of both.

    fastest: the tier at which the capacity is measured. seconds: three times as long as peak and overload last.
    """
    progress("measuring the capacity")
    capacity_per_s = traffic.capacity_per_s(HEAVY, fastest)
    workload = HEAVY.workload(capacity_per_s)
    step_s, long_s = max(MIN_STEP_S, seconds / 6), seconds / 3

    def planned(rate_per_s: float, for_s: float, number: int = 0) -> list[Call]:
        return traffic.planned(workload, rate_per_s, for_s, seed + number, {"slo_class": STRICT})

    progress("searching the peak of goodput")
    steps = {}
    for number in range(MAX_STEPS):
        rate_per_s = round(capacity_per_s * FIRST_STEP * STEP**number, 2)
        steps[rate_per_s] = round(goodput(traffic.send(planned(rate_per_s, step_s)), step_s), 2)
        if number + 1 >= MIN_STEPS and steps[rate_per_s] < PAST_PEAK * rate_per_s:
            break
    at_per_s = max(steps, key=lambda rate_per_s: steps[rate_per_s])
    peak_per_s = goodput(traffic.send(planned(at_per_s, long_s, number=1)), long_s)
    unit_per_s = peak_per_s or capacity_per_s  # with nothing in time there is no peak to multiply
    before = traffic.send(planned(unit_per_s * CALM, step_s))
    much = planned(unit_per_s * OVERLOAD, long_s)
    after = planned(unit_per_s * CALM, max(MIN_AFTER_S, step_s), number=1)
    progress(f"overload: {len(much)} requests")
    replies = traffic.send([*much, *(replace(call, at_s=call.at_s + long_s) for call in after)])
    during, following = replies[: len(much)], replies[len(much) :]
    normal_ms = quantile([r.took_ms for r in before if r.status == 200], 0.99) or 0.0
    good_per_s = goodput(during, long_s)
    return {
        **reply_counts(during),
        **proportions(workload, capacity_per_s, unit_per_s * OVERLOAD),
        **refusals(during),
        "goodput_by_rate_per_s": steps,
        "peak_goodput_per_s": round(peak_per_s, 2),
        "goodput_per_s": round(good_per_s, 2),
        "goodput_share": round(good_per_s / peak_per_s, 3) if peak_per_s else None,
        "calm_p99_ms": normal_ms,
        "after": reply_counts(following),
        "normal_again_s": normal_again_s(following, long_s, normal_ms * TOLERANCE),
    }
