"""How far the arms of a shadow experiment agree with the answers that were given."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MOST_DIFFERENT = 10  # requests that are listed
AGREEMENT = """
    SELECT arm, count(*), avg(overlap), quantile_cont(overlap, 0.1), avg(tau), quantile_cont(tau, 0.1), avg(drift),
           quantile_cont(total_ms, 0.5), quantile_cont(total_ms, 0.99)
    FROM shadows WHERE experiment = ? GROUP BY arm ORDER BY arm
"""
DIFFERENT = """
    SELECT arm, request_id, tier, shadow_tier, overlap, tau, drift
    FROM shadows WHERE experiment = ? ORDER BY overlap, tau NULLS LAST, request_id LIMIT ?
"""
EXPLAINED = (
    "overlap@10: share of the ten best that both have. Kendall τ: agreement of the order, from −1 to 1. drift: mean of "
    "the arm's relevance less the answer's. The worst tenth of requests is at most this. Times include the wait behind "
    "all other work."
)
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Agreement:
    """Of all requests of an arm. overlap, tau, drift: means of the fields of `ShadowEvent`; low_overlap, low_tau: of
    the tenth of the requests that agree least, the best."""

    arm: str
    requests: int
    overlap: float
    low_overlap: float
    tau: float | None
    low_tau: float | None
    drift: float | None
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Differing:
    """One request with little agreement."""

    arm: str
    request_id: str
    tier: str
    shadow_tier: str
    overlap: float
    tau: float | None
    drift: float | None


def agreements(store: "DuckDBPyConnection", experiment: str) -> list[Agreement]:
    return [Agreement(*row) for row in store.execute(AGREEMENT, [experiment]).fetchall()]


def most_different(store: "DuckDBPyConnection", experiment: str) -> list[Differing]:
    """The requests that agree least, by overlap and then by τ."""
    return [Differing(*row) for row in store.execute(DIFFERENT, [experiment, MOST_DIFFERENT]).fetchall()]


def agreement_table(found: list[Agreement]) -> Table:
    header = ["arm", "requests", "overlap@10", "worst tenth", "Kendall τ", "worst tenth", "drift", "p50", "p99"]
    rows = [
        [
            each.arm,
            f"{each.requests:,}",
            f"{each.overlap:.1%}",
            f"{each.low_overlap:.0%}",
            shown(each.tau),
            shown(each.low_tau),
            shown(each.drift, "+.3f"),
            f"{each.p50_ms:,.1f} ms",
            f"{each.p99_ms:,.1f} ms",
        ]
        for each in found
    ]
    return header, rows


def differing_table(found: list[Differing]) -> Table:
    header = ["request", "answered by", "arm", "arm's tier", "overlap@10", "Kendall τ", "drift"]
    rows = [
        [
            each.request_id,
            each.tier,
            each.arm,
            each.shadow_tier,
            f"{each.overlap:.0%}",
            shown(each.tau),
            shown(each.drift, "+.3f"),
        ]
        for each in found
    ]
    return header, rows


def shown(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)
