"""Decisions as lines of JSON, with everything they were made from, so that they can be replayed and explained."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from rankfleet.core.errors import ConfigError
from rankfleet.core.messages import Decision
from rankfleet.core.sections import Routing
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.quality import QualityTable, curve_of
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState

INFINITE = "infinite"  # JSON has no such number


@dataclass(frozen=True)
class LoggedDecision:
    """A line of the log. decision: as plain data, by the kind of decision (Plan, GivenOrder, Refusal)."""

    request_id: str
    now_s: float
    request: PlanRequest
    fleet: FleetSnapshot
    decision: Mapping[str, Any]

    def replayed(self) -> Decision:
        """What the planner decides now from the same."""
        return plan(self.request, self.fleet, self.now_s)

    def is_same(self, decision: Decision) -> bool:
        """Whether a decision is the logged one, to the last field."""
        return tagged(decision) == self.decision


def line_of(request_id: str, request: PlanRequest, fleet: FleetSnapshot, now_s: float, decision: Decision) -> str:
    """One line of the log, without its end. Times are those of the router's steady clock."""
    entry = {"request_id": request_id, "now_s": now_s, "request": plain(request), "fleet": plain(fleet)}
    return json.dumps(entry | {"decision": tagged(decision)}, separators=(",", ":"))


def parse_line(line: str) -> LoggedDecision:
    """Read one line. Raises ConfigError if it is not one that `line_of` wrote."""
    try:
        entry = json.loads(line, object_hook=numbers)
        return LoggedDecision(
            entry["request_id"],
            entry["now_s"],
            request_of(entry["request"]),
            fleet_of(entry["fleet"]),
            json.loads(line)["decision"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not a line of a decision log of this version: {error!r}") from error


def tagged(decision: Decision) -> dict[str, Any]:
    """A decision as plain data, under the name of its kind."""
    return {type(decision).__name__: plain(decision)}


def plain(value: Any) -> Any:
    """Dataclasses, tuples, mappings and numbers as JSON has them."""
    match value:
        case float() if math.isinf(value):
            return INFINITE
        case Lengths():
            return {
                "tokens": value.tokens.tolist(),
                "template_tokens": value.template_tokens,
                "firsts": None if value.firsts is None else value.firsts.tolist(),
            }
        case BaseModel():
            return value.model_dump(mode="json")
        case tuple() if hasattr(value, "_asdict"):
            return plain(value._asdict())
        case tuple() | list():
            return [plain(each) for each in value]
        case Mapping():
            return {">".join(key) if isinstance(key, tuple) else str(key): plain(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def numbers(data: dict[str, Any]) -> dict[str, Any]:
    """The object with its infinite numbers."""

    def finite_or_not(value: Any) -> Any:
        if isinstance(value, list):
            return [finite_or_not(each) for each in value]
        return math.inf if value == INFINITE else value

    return {key: finite_or_not(value) for key, value in data.items()}


def request_of(data: dict[str, Any]) -> PlanRequest:
    lengths = data["lengths"]
    return PlanRequest(
        **data
        | {
            "work": {tier: Work(**work) for tier, work in data["work"].items()},
            "lengths": None if lengths is None else {tier: lengths_of(each) for tier, each in lengths.items()},
        }
    )


def lengths_of(data: dict[str, Any]) -> Lengths:
    firsts = None if data["firsts"] is None else np.array(data["firsts"])
    return Lengths(np.array(data["tokens"], np.int64), data["template_tokens"], firsts)


def fleet_of(data: dict[str, Any]) -> FleetSnapshot:
    tiers = tuple(
        TierState(**tier | {"latency": tier["latency"] and LatencyModel(**tier["latency"])}) for tier in data["tiers"]
    )
    return FleetSnapshot(
        **data
        | {
            "tiers": tiers,
            "groups": {name: group_of(group) for name, group in data["groups"].items()},
            "table": data["table"] and table_of(data["table"]),
            "rule": Routing(**data["rule"]),
        }
    )


def table_of(data: dict[str, Any]) -> QualityTable:
    depths, tokens, cascades = (
        {name: curve_of(curve) for name, curve in data[key].items()} for key in ("depths", "tokens", "cascades")
    )
    by_pair = {
        (small, large): curve for (small, _, large), curve in ((k.partition(">"), c) for k, c in cascades.items())
    }
    return QualityTable(data["tiers"], data["retriever"], depths, tokens, by_pair)


def group_of(data: dict[str, Any]) -> GroupState:
    in_flight = tuple((ms, deadline_s) for ms, deadline_s in data["in_flight"])
    return GroupState(**data | {"in_flight": in_flight, "arrivals": ArrivalStats(**data["arrivals"])})
