"""What became of the requests of a fault bench, in figures."""

from collections.abc import Sequence
from typing import Any

from rankfleet.bench.traffic import REFUSED, Reply, quantile
from rankfleet.router.answer import EXPIRED, UNREAD


def reply_counts(replies: Sequence[Reply]) -> dict[str, Any]:
    """What became of the requests.

    failed: neither answered nor refused; late: answered after the budget as the client sees it; unscored: answered in
    the order given, since the time ran out.
    """
    answered = [r for r in replies if r.status == 200]
    failed = [r for r in replies if r.status not in (200, *REFUSED)]
    figures: dict[str, Any] = {
        "requests": len(replies),
        "ok": len(answered),
        "refused": sum(r.status in REFUSED for r in replies),
        "failed": len(failed),
        "late": sum(r.scored and not r.in_time for r in answered),
        "unscored": sum(not r.scored for r in answered),
        "p50_ms": quantile([r.took_ms for r in answered], 0.5),
        "p99_ms": quantile([r.took_ms for r in answered], 0.99),
    }
    if failed:
        statuses = sorted({r.status for r in failed})
        figures["failed_by_status"] = {str(s): sum(r.status == s for r in failed) for s in statuses}
        figures["failures"] = [f"at {r.call.at_s:.1f} s, {r.took_ms:.0f} ms: {r.error}" for r in failed[:10]]
    return figures


def refusals(replies: Sequence[Reply]) -> dict[str, Any]:
    """Of the refused requests: how many had been accepted, and were given up when their budgets ended; and how long
    the others took, as clients saw it and by the server's own clock."""
    refused = [r for r in replies if r.status in REFUSED]
    at_once = [r for r in refused if EXPIRED not in r.error and UNREAD not in r.error]
    seen_ms, own_ms = [r.took_ms for r in at_once], [r.server_ms for r in at_once]
    return {
        "given_up": len(refused) - len(at_once),
        "refused_p50_ms": quantile(seen_ms, 0.5),
        "refused_p90_ms": quantile(seen_ms, 0.9),
        "refused_p99_ms": quantile(seen_ms, 0.99),
        "refused_server_p50_ms": quantile(own_ms, 0.5),
        "refused_server_p99_ms": quantile(own_ms, 0.99),
    }


def goodput(replies: Sequence[Reply], seconds: float) -> float:
    """Answers in time, per second."""
    return sum(r.in_time for r in replies) / seconds


def normal_again_s(replies: Sequence[Reply], from_s: float, max_ms: float) -> float | None:
    """Seconds from `from_s` until every further request is answered within `max_ms`; None if the last one is not."""
    slow = [r.call.at_s for r in replies if r.status != 200 or r.took_ms > max_ms]
    if not slow:
        return 0.0
    last = max(slow)
    return None if last >= max(r.call.at_s for r in replies) else round(last - from_s, 2)
