"""Figures that are computed: the router's and the autoscaler's simulations, times of decisions, published rates."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from benchmarks.figures.stored import stored
from benchmarks.paths import ROOT
from benchmarks.routing_goals import POLICIES

from rankfleet.bench.tables import markdown
from rankfleet.core.fleet_file import read_config
from rankfleet.core.work import Work
from rankfleet.estimates.profile import read_profile

ROUTING_LOADS = {
    "cv4": "gamma arrivals, CV 4",
    "cv8": "gamma arrivals, CV 8",
    "conv": "Azure conversation",
    "code": "Azure code",
}
ROUTING_GOALS = {"cv4": (0.985, 0.588), "cv8": (0.935, 0.567), "conv": (0.999, 0.605), "code": (0.895, 0.573)}
SCALING_LOADS = {
    "conv": "Azure conversation",
    "code": "Azure code",
    "step": "a step from 15 to 60 requests/s",
    "steady": "Poisson, 60 requests/s",
}
STEP_S = 300.0  # when the load of `step` rises
SIM_FLEET = ROOT / "configs/sim-fleet.yaml"
CANDIDATES, TOKENS = 100, 154  # of the requests that docs/routing.md works through


def policies() -> list[str]:
    """In the order of the table."""
    known = {key.split()[1] for key in stored("routing_goals")["runs"]}
    return [policy for policy in POLICIES if policy in known]


def seeds() -> list[str]:
    """Those with which every policy has been simulated on every load."""
    runs = stored("routing_goals")["runs"]
    every = dict.fromkeys(key.split()[2] for key in runs)
    wanted = [(load, policy) for load in ROUTING_LOADS for policy in policies()]
    return [seed for seed in every if all(f"{load} {policy} {seed}" in runs for load, policy in wanted)]


def seed_mean(load: str, policy: str, figure: str) -> float:
    """Mean over all seeds."""
    runs = stored("routing_goals")["runs"]
    return float(np.mean([runs[f"{load} {policy} {seed}"][figure] for seed in seeds()]))


def attained(load: str, policy: str) -> str:
    """Answered in time in % / mean nDCG@10."""
    return f"{seed_mean(load, policy, 'attainment') * 100:.2f} / {seed_mean(load, policy, 'mean_quality'):.4f}"


def simulated_on(policy: str) -> str:
    """The date of its newest run: those that are there are kept."""
    runs = stored("routing_goals")["runs"]
    return max(runs[f"{load} {policy} {seed}"]["date"] for load in ROUTING_LOADS for seed in seeds())


def routing_goals() -> str:
    fixed = [policy for policy in policies() if policy.startswith(("static:", "table:"))]
    rows = []
    for load, name in ROUTING_LOADS.items():
        best = max(fixed, key=lambda policy: seed_mean(load, policy, "mean_quality"))
        goal = f"{ROUTING_GOALS[load][0] * 100:.1f} / {ROUTING_GOALS[load][1]:.3f}"
        rows.append([name, goal, attained(load, "slo"), f"{best} {attained(load, best)}", attained(load, "oracle")])
    header = ["load", "goal", "`slo`", "best of static and table, by quality", "bound"]
    return markdown(header, rows)


def routing_policies() -> str:
    rows = [
        [f"`{policy}`", *(attained(load, policy) for load in ROUTING_LOADS), simulated_on(policy)]
        for policy in policies()
    ]
    shares = [seed_mean(load, "slo", "attainment") / seed_mean(load, "oracle", "attainment") for load in ROUTING_LOADS]
    return (
        f"{markdown(['policy', *ROUTING_LOADS.values(), 'simulated'], rows)}\n\n"
        f"Requests answered in time by `slo` ÷ those of the bound: {', '.join(f'{share:.1%}' for share in shares)}. "
        f"{'Seed' if len(seeds()) == 1 else 'Means of seeds'} {', '.join(seeds())}."
    )


def autoscaling() -> str:
    """Every scaler on every load, then the goals."""
    runs = stored("autoscaling")["runs"]
    rows = []
    for load, name in SCALING_LOADS.items():
        for scaler, run in runs[load].items():
            hours, reversals = f"{run['gpu_hours']:.2f}", str(run["reversals"])
            rows.append(
                [name, f"`{scaler}`", hours, f"{run['attainment']:.2%}", f"{run['mean_quality']:.4f}", reversals]
            )
            name = ""
    ratios = ", ".join(
        f"{runs[load]['need']['gpu_hours'] / runs[load]['clairvoyant']['gpu_hours']:.2f}× ({SCALING_LOADS[load]})"
        for load in ("conv", "code")
    )
    header = ["load", "scaler", "GPU-hours", "in time", "mean nDCG@10", "reversals"]
    return (
        f"{markdown(header, rows, left=2)}\n\nGPU-hours of `need` ÷ those of the scaler that knows the arrivals, at "
        f"equal attainment and quality: {ratios}; the goal is 1.15×. First decision to grow after the fourfold step: "
        f"`need` after {first_growth(runs['step']['need'])}, `ray:2` after {first_growth(runs['step']['ray:2'])}; the "
        "goal is 2 s. A reversal is growth followed by shrinking, or the other way round; the goal is none under "
        f"steady Poisson load. Simulated {stored('autoscaling')['measured']['date']}."
    )


def first_growth(run: dict[str, Any]) -> str:
    """Time from the step in load to the first decision to grow."""
    before = max(target for at, target, _ in run["replicas"] if at <= STEP_S)
    at = next((at for at, target, _ in run["replicas"] if at > STEP_S and target > before), None)
    return "never" if at is None else f"{at - STEP_S:.1f} s"


def plan_time(case: str, quantile: str) -> str:
    return f"{stored('plan_time')[case][f'{quantile}_us'] / 1e3:.2f} ms"


def line_size(candidates: str) -> str:
    return f"{stored('decision_log')[candidates]['line_bytes'] / 1e3:.0f} KB"


def line_time(candidates: str) -> str:
    return f"{stored('decision_log')[candidates]['p50_us'] / 1e3:.2f} ms"


def step_gain(smaller: str, larger: str) -> str:
    """What nDCG@10 and device time the next larger tier adds to a request, at the published rates."""
    fleet = read_config(SIM_FLEET)
    models = read_profile(str(fleet.profile))
    work = Work(CANDIDATES, CANDIDATES * TOKENS, CANDIDATES * TOKENS**2)
    gain = fleet.tiers[larger].quality - fleet.tiers[smaller].quality
    added_ms = models[larger].mean_ms(work) - models[smaller].mean_ms(work)
    return f"{gain:.4f} in {added_ms:.1f} ms"


FIGURES: dict[str, Callable[[], str]] = {
    "routing-goals": routing_goals,
    "routing-policies": routing_policies,
    "autoscaling": autoscaling,
    "plan-p50": partial(plan_time, "calm", "p50"),
    "plan-p99": partial(plan_time, "calm", "p99"),
    "plan-infeasible-p50": partial(plan_time, "infeasible", "p50"),
    "plan-infeasible-p99": partial(plan_time, "infeasible", "p99"),
    "decision-line-100": partial(line_size, "100"),
    "decision-line-1000": partial(line_size, "1000"),
    "decision-log-100": partial(line_time, "100"),
    "decision-log-1000": partial(line_time, "1000"),
    "step-17m-32m": partial(step_gain, "17m", "32m"),
    "step-400m-1b": partial(step_gain, "400m", "1b"),
}
