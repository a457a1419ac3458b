"""Figures of docs/experiments.md: how often, and how soon, an arm is stopped."""

from benchmarks.figures.stored import stored

from rankfleet.bench.tables import markdown


def rollback_alike() -> str:
    """False alarms among all experiments with equal arms."""
    cases = [case for name, case in stored("rollback").items() if name.startswith("alike")]
    stopped = sum(round(case["stopped_share"] * case["runs"]) for case in cases)
    return f"{stopped} of {sum(case['runs'] for case in cases):,}"


def rollback_cases() -> str:
    """Each case of benchmarks/rollback.py."""
    rows = [
        [
            name,
            f"{case['stopped_share']:.1%} of {case['runs']:,}",
            *(f"{case[key]:,.0f}" if key in case else "–" for key in ("arm_requests_p50", "arm_requests_p95")),
        ]
        for name, case in stored("rollback").items()
        if name != "measured"
    ]
    return markdown(["one arm", "stopped", "after so many of its requests, median", "95th percentile"], rows)


def rollback_live() -> str:
    """What clients got on a running fleet."""
    found = stored("experiment_rollback")
    rollback, change = found["rollback"], found["change"]
    requests = rollback["answered"] + rollback["refused"]
    return (
        f"it was stopped {rollback['stopped_after_s']:.1f} s after the step, having had {rollback['refused']} requests "
        f"refused; of {requests:,} requests, {rollback['refused_of_other_arms']} of other arms failed. With "
        f"`rankfleet experiment set`, just after the actor was killed, users who had to move sent their last request "
        f"to the old arm {change['last_old_after_s']:.1f} s after the change was handed over, and the first to the new "
        f"arm after {change['first_new_after_s']:.1f} s; {change['failed']} of {change['requests']:,} requests failed"
    )


FIGURES = {
    "rollback-alike": rollback_alike,
    "rollback-cases": rollback_cases,
    "rollback-live": rollback_live,
}
