"""What experiments are judged by: what became of each request, and what people then did with the answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_type_hints

MAX_RANKED = 100  # documents of a ranking that an event lists


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """What became of one request that was answered, refused or failed. Holds no texts and no ids of users.

    at_s: when it arrived, in seconds since 1970 by the router's wall clock.
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

    at_s: float
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowEvent:
    """What another tier would have answered to a request that had been answered. Fields as in `RequestEvent`, and:

    tier: that answered. shadow_tier, plan: of the arm. total_ms: what the arm's answer took, behind all other work.
    overlap: share of the first 10 documents that both have among their first 10. tau: Kendall's τ of the documents
        that were returned, at most MAX_RANKED; None of fewer than two. drift: mean of the arm's relevance less that of
        the answer, over the documents that both scored; None if there are none.
    """

    at_s: float
    request_id: str
    tenant: str | None
    experiment: str
    arm: str
    step: int
    unit: str
    tier: str
    shadow_tier: str
    plan: str
    total_ms: float
    overlap: float
    tau: float | None
    drift: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What is known afterwards of one answer. There may be several of a request, which are merged when they are read.

    at_s: when it came, as in `RequestEvent`. request_id, tenant: of the request.
    clicks: documents that were clicked, by their place as in `RequestEvent.ranking`. labels: judgements by document,
        the higher the better. converted: whether the request led to what it was for. None: nothing is said of it.
    """

    at_s: float
    request_id: str
    tenant: str | None = None
    clicks: Sequence[int] | None = None
    labels: Mapping[int, float] | None = None
    converted: bool | None = None


SQL_TYPES = {
    float: "DOUBLE",
    int: "BIGINT",
    str: "VARCHAR",
    bool: "BOOLEAN",
    Sequence[int]: "INTEGER[]",
    Mapping[int, float]: "MAP(INTEGER, DOUBLE)",
}


Row = RequestEvent | ShadowEvent | Feedback


FILE_PREFIXES: dict[type[Row], str] = {ShadowEvent: "shadow-", Feedback: "feedback-", RequestEvent: ""}


def row_type(file_name: str) -> type[Row]:
    """What the lines of a file are."""
    return next(row for row, prefix in FILE_PREFIXES.items() if file_name.startswith(prefix))


def router_of(file_name: str) -> str:
    """The router that has written a file."""
    return file_name.removeprefix(FILE_PREFIXES[row_type(file_name)])


def sql_columns(row: type[Row]) -> dict[str, str]:
    """The columns of the files, with their types in DuckDB."""
    hints = get_type_hints(row).items()
    return {name: next(sql for kind, sql in SQL_TYPES.items() if hint in (kind, kind | None)) for name, hint in hints}


def lines_in_sql(row: type[Row], paths: Iterable[str]) -> str:
    """The rows in files of JSON lines, with `filename`, for DuckDB. What is no whole line is left out."""
    options = f"columns={sql_columns(row)}, format='newline_delimited', ignore_errors=true, filename=true"
    # Half a line is a row of NULLs.
    return f"FROM read_json({quoted_list(paths)}, {options}) WHERE request_id IS NOT NULL AND at_s IS NOT NULL"


def quoted(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted_list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, texts))}]"
