"""Decisions as lines of JSON, with everything they were made from, so that they can be replayed and explained.

A line holds sizes, times and settings, and no texts. Infinite numbers are null, because JSON has none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel

from rankfleet.core.decisions import Decision
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import Routing
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import SIZES, ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.quality import QualityTable, curve_of
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState

FORMAT = 6  # raise it with every change of what a line holds


@dataclass(frozen=True)
class LoggedDecision:
    """A line of the log. decision: the fields of the decision as plain data; `kind` is the name of its class."""

    request_id: str
    now_s: float
    request: PlanRequest
    fleet: FleetSnapshot
    decision: Mapping[str, Any]

    def replayed(self) -> Decision:
        """What the planner decides now from the same. Raises ConfigError if it cannot, since the line was changed."""
        try:
            return plan(self.request, self.fleet, self.now_s)
        except Exception as error:
            raise ConfigError(f"request {self.request_id}: cannot be decided again: {error!r}") from error

    def differences(self, decision: Decision) -> list[str]:
        """The fields in which a decision is not the logged one; empty if it is the same to the last one."""
        now = fields_of(decision)
        return [name for name in {**self.decision, **now} if self.decision.get(name) != now.get(name)]


def line_of(request_id: str, request: PlanRequest, fleet: FleetSnapshot, now_s: float, decision: Decision) -> bytes:
    """One line of the log, without its end. Times are those of the router's steady clock."""
    table = fleet.table and vars(fleet.table) | {
        "cascades": {">".join(tiers): curve for tiers, curve in fleet.table.cascades.items()}
    }
    return dumped(
        {
            "format": FORMAT,
            "request_id": request_id,
            "now_s": now_s,
            "request": request,
            "fleet": replace(fleet, table=None),
            "table": table,
            "decision": fields_of(decision),
        }
    )


def parse_line(line: bytes) -> LoggedDecision:
    """Read one line. Raises ConfigError if it is not one that `line_of` writes."""
    try:
        entry = orjson.loads(line)
        if entry["format"] != FORMAT:
            raise ConfigError(f"has format {entry['format']}; this version of rankfleet replays format {FORMAT}")
        fleet = fleet_of(entry["fleet"], entry["table"])
        return LoggedDecision(
            entry["request_id"], entry["now_s"], request_of(entry["request"]), fleet, entry["decision"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ConfigError(f"is not a logged decision: {error!r}") from error


def fields_of(decision: Decision) -> dict[str, Any]:
    """A decision as plain data, with the name of its class as `kind`."""
    return {"kind": type(decision).__name__} | orjson.loads(dumped(decision))


def dumped(value: Any) -> bytes:
    """JSON of dataclasses, mappings, sequences and numbers."""
    return orjson.dumps(value, plain, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def plain(value: Any) -> Any:
    """What orjson does not know, in terms that it does."""
    match value:
        case Lengths():
            names = ("tokens", "template_tokens", "firsts", "ranks", "candidates")
            return {name: getattr(value, name) for name in names}
        case BaseModel():
            return value.model_dump(mode="json")
        case tuple() if hasattr(value, "_asdict"):
            return value._asdict()
    raise TypeError(f"{type(value).__name__} has no place in a decision log")


def request_of(data: dict[str, Any]) -> PlanRequest:
    lengths = data["lengths"] and {tier: lengths_of(each) for tier, each in data["lengths"].items()}
    work = {tier: Work(**each) for tier, each in data["work"].items()}
    cascade = data["cascade"] and tuple(data["cascade"])
    return PlanRequest(**data | {"work": work, "lengths": lengths, "cascade": cascade})


def lengths_of(data: dict[str, Any]) -> Lengths:
    firsts, ranks = (None if data[name] is None else np.array(data[name], np.int64) for name in ("firsts", "ranks"))
    tokens = np.array(data["tokens"], np.int64)
    return Lengths(tokens, data["template_tokens"], firsts, ranks, data["candidates"])


def fleet_of(data: dict[str, Any], table: dict[str, Any] | None) -> FleetSnapshot:
    known = {
        "tiers": tuple(
            TierState(**tier | {"latency": tier["latency"] and LatencyModel(**tier["latency"])})
            for tier in data["tiers"]
        ),
        "groups": {name: group_of(group) for name, group in data["groups"].items()},
        "table": table and table_of(table),
        "rule": Routing(**data["rule"]),
    }
    return FleetSnapshot(**data | known)


def group_of(data: dict[str, Any]) -> GroupState:
    in_flight = tuple((ms, infinite_if_null(deadline_s)) for ms, deadline_s in data["in_flight"])
    typical_ms, shortest_ms = (
        infinite_if_null(data["arrivals"][name]) for name in ("typical_budget_ms", "shortest_budget_ms")
    )
    rates = tuple(data["arrivals"]["burst_rates_per_s"])
    if len(rates) != len(SIZES):
        raise ValueError(f"burst_rates_per_s: {len(rates)} in place of {len(SIZES)}")
    arrivals = ArrivalStats(typical_ms, shortest_ms, rates)
    return GroupState(**data | {"in_flight": in_flight, "arrivals": arrivals})


def infinite_if_null(number: float | None) -> float:
    return math.inf if number is None else number


def table_of(data: dict[str, Any]) -> QualityTable:
    curves = {
        key: {name: curve_of(curve) for name, curve in data[key].items()} for key in ("depths", "tokens", "cascades")
    }
    cascades = {tuple(pair.split(">")): curve for pair, curve in curves["cascades"].items()}
    return QualityTable(**data | curves | {"cascades": cascades})
