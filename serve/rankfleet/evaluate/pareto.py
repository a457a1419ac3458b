"""All plans with their quality, time and cost, and those of them that nothing beats in both."""

from collections.abc import Mapping, Sequence
from typing import Any

from rankfleet.evaluate.comparison import Values, difference, mean_over

KINDS = {"alone": "tier", "order": "fused", "against": "compared with"}


def plans_of(measured: Sequence[Mapping[str, Values]], figures: Mapping[str, Any], top_k: int) -> list[dict[str, Any]]:
    """One JSON object for each plan: `plan`, `kind`, `ndcg@10`, `interval`, `ms`, and `usd_per_1000` where it is known.

    kind: tier, cascade, fused, or compared with; interval: that of the difference from the retriever, laid on the
    retriever's own nDCG@10; ms: the median of one query at a time, of a cascade the sum of its stages.
    measured: by collection, from `values_of`; figures: `tiers`, `against` and `retriever` of the same.
    """
    retriever, rows = [each["retriever"][""] for each in measured], {**figures["tiers"], **figures["against"]}
    level, plans = mean_over(retriever), []
    for way, kind in KINDS.items():
        for plan in measured[0].get(way, ()):
            values = [each[way][plan] for each in measured]
            low, high = difference(values, retriever)["interval"]
            interval = [round(level + low, 4), round(level + high, 4)]
            kind_of_plan = "cascade" if way == "alone" and ">" in plan else kind
            plans.append({"plan": plan, "kind": kind_of_plan, "ndcg@10": mean_over(values), "interval": interval})
            for key, figure in (("ms", "p50_ms"), ("usd_per_1000", "usd_per_1000")):
                costs = [rows[tier].get(figure) for tier in stages_of(plan)]
                if None not in costs:
                    shares = (1.0, share_of(plan, top_k))
                    total = sum(cost * share for cost, share in zip(costs, shares, strict=False))
                    plans[-1][key] = float(f"{total:.5g}")
    return plans


def stages_of(plan: str) -> list[str]:
    """The tiers of a plan: `small` or `small>large 20`."""
    return plan.partition(" ")[0].split(">")


def share_of(plan: str, top_k: int) -> float:
    """Of the candidates, those that a cascade scores again."""
    kept = plan.partition(" ")[2]
    return min(1.0, int(kept) / top_k) if kept else 1.0


def front(plans: Sequence[Mapping[str, Any]], cost: str) -> list[Mapping[str, Any]]:
    """The plans that no other beats: none is at least as cheap and better. By cost, the cheapest first."""
    best: list[Mapping[str, Any]] = []
    for plan in sorted((each for each in plans if cost in each), key=lambda each: (each[cost], -each["ndcg@10"])):
        if not best or plan["ndcg@10"] > best[-1]["ndcg@10"]:
            best.append(plan)
    return best
