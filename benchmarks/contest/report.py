"""Figures of the contest, computed from the measured times and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from benchmarks.contest.contenders import ContestEntry
from benchmarks.contest.flops import FlopCount
from benchmarks.contest.rounds import Timed

FULL_QUALITY = ("float32", "bfloat16")
MIN_TAU = 0.5  # below it a contender computes something else; bfloat16 with random weights stays well above


@dataclass
class ContestOutcome:
    """What one contender gave: scores, batch size and times."""

    entry: ContestEntry
    scores: Sequence[float]
    batch_size: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    timed: Timed = field(default_factory=Timed)


@dataclass(frozen=True)
class ContestSetting:
    """The work of all contenders. lengths: tokens of each pair."""

    lengths: Sequence[int]
    flops: FlopCount
    rates: Mapping[str, float]  # operations a second of large matrix products, by precision


def kendall_tau(left: Sequence[float], right: Sequence[float]) -> float:
    """Kendall's τ-b: (concordant − discordant pairs) ÷ the geometric mean of the numbers of pairs untied in each list.

    1 where all are tied in both.
    """
    a, b = np.sign(np.subtract.outer(left, left)), np.sign(np.subtract.outer(right, right))
    untied = float(np.sqrt(np.abs(a).sum() * np.abs(b).sum()))
    return float((a * b).sum() / untied) if untied else float(not a.any() and not b.any())


def agreement(scores: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Differences from the reference's scores; `wrong` says why they cannot come from the same model."""
    if not np.isfinite(scores).all():
        return {"wrong": "some scores are not finite"}
    tau = kendall_tau(scores, reference)
    result: dict[str, Any] = {
        "max_abs_difference": round(float(np.abs(np.subtract(scores, reference)).max()), 6),
        "kendall_tau": round(tau, 5),
    }
    if tau < MIN_TAU:
        result["wrong"] = f"the pairs are in another order than the reference's (Kendall's tau {tau:.3f})"
    return result


def figures(outcome: ContestOutcome, setting: ContestSetting, reference: Sequence[float]) -> dict[str, Any]:
    """The figures of one contender."""
    pairs, median_s = len(setting.lengths), outcome.timed.median_s
    result: dict[str, Any] = {"pairs_per_s": round(pairs / median_s, 2), "dtype": outcome.entry.dtype}
    if outcome.batch_size is not None:
        result["batch_size"] = outcome.batch_size
    result |= {
        "tokens_per_s": round(sum(setting.lengths) / median_s),
        **agreement(outcome.scores, reference),
        "round_s": [round(s, 4) for s in outcome.timed.seconds],
        "disturbed_rounds": len(outcome.timed.disturbed_s),
        "cpu_s": round(outcome.timed.cpu_s, 3),
        "idle_cpu_s": round(outcome.timed.idle_cpu_s, 3),
        **outcome.details,
    }
    return result


def with_bound(entry: dict[str, Any], setting: ContestSetting) -> dict[str, Any]:
    """The entry with its share of the rate that the machine's matrix products allow in its precision."""
    rate = setting.rates.get(entry["dtype"])
    if rate is None:
        return entry
    bound = rate * len(setting.lengths) / setting.flops.total
    first_token_bound = rate * len(setting.lengths) / setting.flops.first_token_only
    return entry | {
        "bound_pairs_per_s": round(bound, 2),
        "bound_fraction": round(entry["pairs_per_s"] / bound, 4),
        "first_token_bound_pairs_per_s": round(first_token_bound, 2),
        "first_token_bound_fraction": round(entry["pairs_per_s"] / first_token_bound, 4),
    }


def reference_of(outcomes: Sequence[ContestOutcome]) -> ContestOutcome:
    """The outcome whose scores are the reference: Sentence Transformers in float32, or the nearest to it that there
    is."""
    first = ("sentence-transformers", "rankfleet")

    def rank(outcome: ContestOutcome) -> tuple[bool, int]:
        peer = outcome.entry.peer
        return outcome.entry.dtype != "float32", first.index(peer) if peer in first else len(first)

    return min(outcomes, key=rank)


def best(entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest entry with right scores."""
    right = [entry for entry in entries if "pairs_per_s" in entry and "wrong" not in entry]
    return max(right, key=lambda entry: entry["pairs_per_s"]) if right else None


def summary(
    outcomes: Sequence[ContestOutcome], missing: Mapping[str, dict[str, str]], setting: ContestSetting
) -> dict[str, Any]:
    """All figures of the contest.

    `rankfleet` is this engine in its fastest precision of full quality. `peers` has each peer in each precision and,
    under its own name, in its best. missing: why peers and entries gave no figures.
    """
    reference = reference_of(outcomes)
    entries = {o.entry.name: figures(o, setting, reference.scores) for o in outcomes}
    peers: dict[str, Any] = dict(missing)
    ours = {o.entry.dtype: with_bound(entries[o.entry.name], setting) for o in outcomes if o.entry.peer == "rankfleet"}
    for name in dict.fromkeys(o.entry.peer for o in outcomes if o.entry.peer != "rankfleet"):
        own = {o.entry.name: entries[o.entry.name] for o in outcomes if o.entry.peer == name}
        peers |= own
        fastest = best(list(own.values()))
        peers[name] = (
            {key: fastest[key] for key in ("pairs_per_s", "batch_size", "dtype", "tokens_per_s")}
            if fastest
            else {"failed": "its scores were wrong in every precision"}
        )
    full = [entry for dtype, entry in ours.items() if dtype in FULL_QUALITY]
    headline = best(full) or best(list(ours.values())) or next(iter(ours.values()))
    rated = {name: peer["pairs_per_s"] for name, peer in peers.items() if "pairs_per_s" in peer and "wrong" not in peer}
    return {
        "rankfleet": headline,
        "peers": peers,
        "ratio": {name: round(headline["pairs_per_s"] / speed, 3) for name, speed in rated.items()},
        "bound_pairs_per_s": headline.get("bound_pairs_per_s"),
        "bound_fraction": headline.get("bound_fraction"),
        "tokens_per_s": headline["tokens_per_s"],
        "by_dtype": ours,
        "ratio_by_dtype": {
            dtype: {name: round(entry["pairs_per_s"] / speed, 3) for name, speed in rated.items()}
            for dtype, entry in ours.items()
        },
        "scores_compared_with": reference.entry.name,
    }
