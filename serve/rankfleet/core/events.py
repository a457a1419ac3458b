"""What became of one request: the row that experiments are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RANKED = 100  # documents of a ranking that an event lists


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """What became of one request that was answered, refused or failed. Holds no texts and no ids of users.

    at: when it arrived, in seconds since 1970 by the router's wall clock.
    experiment, arm: those it belongs to; None if it takes part in no experiment.
    step: index of the weights in force: 0 before the first step of the experiment's schedule.
    unit: first 16 hex digits of a SHA-256 over experiment, seed and the id of its unit (a user or session, say).
    status: as in `core/errors.py`, 200 for an answer; some dialects use others. error: the code; None for an answer.
    tier: that answered; None for the order as given, and for an error.
    plan: what was scored: `small`, `small > large on 20`, `as given`; empty for an error.
    reason: why this plan. Of an error, its message where that cannot quote what the client sent, else empty.
    queries: how many it has. candidates: documents to be ranked, of all queries together. tokens: scored in all stages
        together.
    predicted_ms: 99th percentile from arrival to answer; None if not known. total_ms: what it took.
    degraded: what was left out, for people; None if nothing was, and for an error.
    met: whether the budget was met; None without a budget, and for an error.
    quality: expected nDCG@10; None for an error.
    ranking: documents of the answer, best first, at most MAX_RANKED, by their place among those sent; of several
        queries, all their documents are numbered in one row, one query's after the other's. Empty for an error.
    """

    at: float
    request_id: str
    tenant: str | None = None
    experiment: str | None = None
    arm: str | None = None
    step: int = 0
    unit: str | None = None
    status: int = 200
    error: str | None = None
    tier: str | None = None
    plan: str = ""
    reason: str = ""
    queries: int = 1
    candidates: int
    tokens: int = 0
    slo_class: str | None = None
    budget_ms: float | None = None
    predicted_ms: float | None = None
    total_ms: float
    degraded: str | None = None
    met: bool | None = None
    quality: float | None = None
    ranking: Sequence[int] = ()
