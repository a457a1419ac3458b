"""How many replicas an option takes at some traffic, found by simulating the router and the workers that serve it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.request_cost import RequestCost
from rankfleet.recommend.choice import Option
from rankfleet.recommend.fleet_file import reduced
from rankfleet.router.planner import plan
from rankfleet.simulate.policies import Policy, cascade
from rankfleet.simulate.run import IN_TIME, Simulation
from rankfleet.simulate.traces import from_process
from rankfleet.simulate.workload import Workload, draw

ATTAINMENT = 0.99  # share of requests that have to be answered in time, whole
REQUESTS = 1_000  # simulated; the share is then known to about 0.3 points
MIN_BUDGETS = 20  # simulated time in budgets, so that a queue that grows is seen to
MAX_LOAD = 8.0  # replicas' worth of work in one simulation
SEED = 1


@dataclass(frozen=True)
class Traffic:
    """Requests of one kind.

    requests_per_s: mean rate of Poisson arrivals
    slo_ms: budget of a request
    candidates: documents of a request
    tokens: of a pair
    """

    requests_per_s: float
    slo_ms: float
    candidates: int
    tokens: int


@dataclass(frozen=True)
class Sizing:
    """A number of replicas and what they do.

    attainment: share of requests that were answered in time, whole
    p99_ms: of these, as the client sees it
    utilisation: share of the time in which replicas were scoring
    """

    replicas: int
    attainment: float
    p99_ms: float
    utilisation: float


def size(
    fleet: FleetConfig, models: Mapping[str, LatencyModel], option: Option, traffic: Traffic, requests: int = REQUESTS
) -> Sizing | None:
    """The fewest replicas that this traffic occupies for at most `autoscaling.utilisation` of their time, so that the
    autoscaler would not add to them, and with which ATTAINMENT is reached. None if no number of replicas is enough:
    a request is late even where nothing is ahead of it.

    Much traffic is simulated as several equal parts, each with replicas of its own, which takes as many or a few more.
    The time of client and router is not simulated: it is theirs to be scaled, by `routers`.

    fleet: has the option's tiers. option: with its time (`ms`). requests: simulated at least.
    """
    assert option.ms is not None
    load = traffic.requests_per_s * option.ms / 1e3
    parts = max(1, math.ceil(load / MAX_LOAD))
    part = replace(traffic, requests_per_s=traffic.requests_per_s / parts)
    group = fleet.group_of(option.tiers[-1])
    replicas = max(1, math.ceil(load / parts / fleet.autoscaling.utilisation_of(group)))
    most = 4 * replicas + 4
    while replicas <= most:
        tried = simulated(fleet_of(fleet, option, replicas), models, option, part, requests)
        if tried.attainment >= ATTAINMENT:
            return replace(tried, replicas=replicas * parts)
        replicas += max(1, replicas // 4)
    return None


def simulated(
    fleet: FleetConfig, models: Mapping[str, LatencyModel], option: Option, traffic: Traffic, count: int
) -> Sizing:
    """What a fleet from `fleet_of` does with at least so many requests of this traffic."""
    workload = workload_of(traffic)
    draws = np.random.default_rng(SEED)
    seconds = max(count / traffic.requests_per_s, MIN_BUDGETS * traffic.slo_ms / 1e3)
    arrived_s = from_process(f"poisson:rate={traffic.requests_per_s!r}", seconds, draws)
    requests = draw(workload, arrived_s, draws)
    kept = option.stages[-1][1]
    first, last = option.tiers[0], option.tiers[-1]
    policy = Policy("slo", plan) if kept is None else Policy("cascade", cascade(first, last, kept))
    cost = RequestCost(delay_ms=fleet.network_ms)
    outcome = Simulation(fleet, models, workload, policy, SEED, cost=cost).run(requests)
    whole = (outcome.state == IN_TIME) & (outcome.quality == fleet.tiers[last].quality)
    p99_ms = float(np.quantile(outcome.took_ms[whole], 0.99)) if whole.any() else float("nan")
    [group] = fleet.groups
    replicas = fleet.replicas_of(group).max
    return Sizing(replicas, float(whole.mean()), p99_ms, outcome.gpu_s / outcome.replica_s)


def fleet_of(fleet: FleetConfig, option: Option, replicas: int) -> FleetConfig:
    """One group of so many replicas. Qualities are the stages' places, so that an answer tells which were carried
    out."""
    settings: dict[str, Any] = reduced(fleet, option.tiers)
    for place, tier in enumerate(option.tiers, start=1):
        settings["tiers"][tier]["quality"] = place / 10
    for group in settings["groups"].values():
        group.pop("in_router", None)
        group["replicas"] = {"min": replicas, "max": replicas}
    for key in ("quality", "candidates", "experiments", "profile"):
        settings.pop(key, None)
    return parse_config(settings)


def workload_of(traffic: Traffic) -> Workload:
    """Requests of one class and one size."""
    return Workload.model_validate(
        {
            "classes": {"all": {"slo_ms": traffic.slo_ms, "share": 1}},
            "candidates": [{"count": traffic.candidates, "share": 1}],
            "tokens": traffic.tokens,
        }
    )
