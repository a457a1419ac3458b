"""GET /v1/fleet: what the router that answers knows of the fleet, and what it has decided in the last minutes."""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Response
from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.http import json_response
from rankfleet.api.recent import Recent
from rankfleet.autoscaler.board import Board, GroupBoard
from rankfleet.core.experiment_state import COLUMNS
from rankfleet.core.work import Work
from rankfleet.router.experiments import Split
from rankfleet.router.plan_options import PlanRequest, complete_options
from rankfleet.router.service import RankingService

EXAMPLE = Work(pairs=100, tokens=100 * 128, squares=100 * 128**2)  # of which the time of each tier is told
MAX_DECISIONS = 50


class FleetTier(TypedDict):
    name: str
    group: str
    quality: Annotated[float, Field(description="nDCG@10")]
    predicted_ms: Annotated[
        float | None,
        Field(description="99th percentile for 100 documents of 128 tokens, behind the work that is queued now"),
    ]
    idle_ms: Annotated[float | None, Field(description="the same on an idle fleet")]


class FleetReplica(TypedDict):
    name: str
    chunks: Annotated[int, Field(description="of this router, in flight there")]
    ahead_ms: Annotated[float, Field(description="predicted time until a chunk that is sent now would start")]
    ejected: Annotated[bool, Field(description="whether others are preferred, because it has lost or failed work")]


class ScalingChange(TypedDict):
    number: Annotated[int, Field(description="of the changes since the controller started, this one included")]
    age_s: float
    before: Annotated[int, Field(description="replicas that the group should have had before")]
    after: int
    reason: str


class Scaling(TypedDict):
    state: Annotated[str, Field(description="as in docs/autoscaling.md; `fixed` if `min` and `max` are the same")]
    reason: Annotated[str, Field(description="of the last decision, with the load of the whole fleet")]
    target: Annotated[int, Field(description="replicas that the group should have")]
    running: Annotated[int, Field(description="replicas that take work")]
    last_change: Annotated[
        ScalingChange | None,
        Field(description="the last decision that changed the target; null if none did since the controller started"),
    ]


class FleetGroup(TypedDict):
    name: str
    tiers: list[str]
    in_router: bool
    min_replicas: int
    max_replicas: int
    scaling: Annotated[
        Scaling | None, Field(description="by Serve's controller; null for a group in the router, or if not heard of")
    ]
    asleep: Annotated[bool, Field(description="no replica runs; the next request starts one")]
    backlog_s: Annotated[float, Field(description="predicted seconds of queued and running work ÷ ready replicas")]
    replicas: list[FleetReplica]


class FleetDecision(TypedDict):
    age_s: float
    tier: Annotated[str, Field(description="`none` for documents in the order sent")]
    reason: str
    quality: float
    predicted_ms: float | None
    budget_ms: float | None
    total_ms: float
    met: Annotated[bool | None, Field(description="null without a budget")]


class RecentRequests(TypedDict):
    period_s: float
    answered: int
    with_budget: int
    met: Annotated[int, Field(description="of those with a budget")]
    tiers: Annotated[dict[str, int], Field(description="answers by tier")]
    refused: Annotated[dict[str, int], Field(description="requests that were refused or failed, by code")]


class FleetArm(TypedDict):
    name: str
    changes: Annotated[str, Field(description="what it changes, for people")]
    weight: Annotated[float, Field(description="the one in force, relative to the other arms")]
    share: Annotated[float, Field(description="of the buckets of users, sessions or other units")]
    stopped: Annotated[
        str | None, Field(description="why its units are answered as those of the control; null: they are not")
    ]
    requests: Annotated[int, Field(description="since `since_s`, of all routers")]
    errors: Annotated[int, Field(description="of these, without an answer")]
    budgets: Annotated[int, Field(description="answers that had a budget")]
    met: Annotated[int, Field(description="of these, in time")]


class FleetStep(TypedDict):
    at: Annotated[str, Field(description="when, as the fleet file has it")]
    weights: dict[str, float]


class FleetExperiment(TypedDict):
    name: str
    mode: Annotated[
        Literal["split", "shadow"],
        Field(description="`shadow`: its arms answer nothing and count nothing; answers are compared with theirs"),
    ]
    unit: str
    stopped: Annotated[bool, Field(description="no request takes part")]
    control: str
    since_s: Annotated[
        float | None, Field(description="when the counts begin, in seconds since 1970; null before the first")
    ]
    arms: list[FleetArm]
    next: Annotated[FleetStep | None, Field(description="the next step of the schedule")]


class FleetReply(TypedDict):
    router: Annotated[str, Field(description="name of the router that answers")]
    groups: list[FleetGroup]
    tiers: list[FleetTier]
    experiments: list[FleetExperiment]
    recent: RecentRequests
    decisions: Annotated[list[FleetDecision], Field(description="newest first, at most 50")]


def add_fleet(
    api: FastAPI, service: RankingService, recent: Recent, name: str, board: Callable[[], Awaitable[Board]]
) -> None:
    """Add GET /v1/fleet to the API. name: of this router. board: what Serve's controller says."""
    summary = "What the router that answers knows of the fleet, and what it has decided"

    @api.get("/v1/fleet", summary=summary, responses={200: {"model": FleetReply}})
    async def fleet() -> Response:
        scaling = (await board()).groups
        now_s, unix_s = service.clock(), service.wall_clock()
        splits = service.splits
        return json_response(
            {
                "router": name,
                "groups": groups_json(service, scaling, now_s),
                "tiers": tiers_json(service, now_s),
                "experiments": [experiment_json(split, unix_s) for split in (*splits.splits, *splits.shadows)],
                "recent": recent_json(recent),
                "decisions": decisions_json(recent),
            }
        )


def tiers_json(service: RankingService, now_s: float) -> list[dict[str, Any]]:
    snapshot = service.fleet.snapshot(now_s)
    request = PlanRequest(dict.fromkeys(service.config.tiers, EXAMPLE), now_s)
    now, idle = (
        {option.tier: option.predicted_ms for option in complete_options(request, state, now_s)}
        for state in (snapshot, snapshot.idle)
    )
    return [
        {
            "name": tier.name,
            "group": tier.group,
            "quality": tier.quality,
            "predicted_ms": finite_ms(now[tier.name]),
            "idle_ms": finite_ms(idle[tier.name]),
        }
        for tier in snapshot.tiers
    ]


def groups_json(service: RankingService, scaling: Mapping[str, GroupBoard], now_s: float) -> list[dict[str, Any]]:
    fleet = service.fleet
    return [
        {
            "name": name,
            "tiers": group.tiers,
            "in_router": group.in_router,
            "min_replicas": group.replicas.min,
            "max_replicas": group.replicas.max,
            "scaling": asdict(scaling[name]) if name in scaling else None,
            "asleep": fleet.ledgers[name].asleep(group.replicas.min),
            "backlog_s": round(fleet.backlog_s(name, now_s), 4),
            "replicas": [
                {"name": replica, "chunks": chunks, "ahead_ms": round(ahead_ms, 2), "ejected": ejected}
                for replica, chunks, ahead_ms, ejected in fleet.ledgers[name].loads(now_s)
            ],
        }
        for name, group in service.config.groups.items()
    ]


def experiment_json(split: Split, unix_s: float) -> dict[str, Any]:
    experiment, state, step = split.experiment, split.state, split.step(unix_s)
    weights, shares, stopped = list(experiment.all_weights())[step], split.shares(step), split.stopped()
    counts = {arm: dict(zip(COLUMNS, state.counts.get(arm, (0,) * len(COLUMNS)), strict=True)) for arm in shares}
    later = experiment.schedule[step : step + 1]
    return {
        "name": split.name,
        "mode": experiment.mode,
        "unit": experiment.header or experiment.unit,
        "stopped": experiment.stopped,
        "control": experiment.control_arm,
        "since_s": state.since_s,
        "arms": [
            {
                "name": arm,
                "changes": experiment.arms[arm].summary,
                "weight": weights[arm],
                "share": shares[arm],
                "stopped": stopped.get(arm),
                **{key: counts[arm][key] for key in ("requests", "errors", "budgets")},
                "met": counts[arm]["budgets"] - counts[arm]["missed"],
            }
            for arm in shares
        ],
        "next": {"at": later[0].at.isoformat(), "weights": later[0].weights} if later else None,
    }


def recent_json(recent: Recent) -> dict[str, Any]:
    recent.forget_old()
    return {
        "period_s": round(recent.period_s(), 1),
        "answered": recent.tiers.total(),
        "with_budget": recent.with_budget,
        "met": recent.met,
        "tiers": +recent.tiers,
        "refused": recent.refusals(),
    }


def decisions_json(recent: Recent) -> list[dict[str, Any]]:
    return [
        {
            "age_s": round(age_s, 2),
            **asdict(answer),
            "predicted_ms": finite_ms(answer.predicted_ms),
            "total_ms": round(answer.total_ms, 2),
        }
        for age_s, answer in islice(recent.answers(), MAX_DECISIONS)
    ]


def finite_ms(ms: float) -> float | None:
    """None for the infinity of a tier that has not been measured."""
    return round(ms, 2) if math.isfinite(ms) else None
