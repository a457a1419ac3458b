"""Rankings compared query by query: the retriever's, those of tiers and cascades alone, and the fused ones."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankfleet.evaluate.candidates import Collection, ScoredCandidates
from rankfleet.evaluate.fusion import EVIDENCE, FusionFit
from rankfleet.evaluate.measures import by_query_of, ndcg_by_query, run_of
from rankfleet.evaluate.orders import best_first, cascade
from rankfleet.evaluate.significance import holm, randomisation_p

ROUNDS = 2_000
LEVEL = 0.95
SEED = 1
KEPT = 20  # candidates that a compared cascade scores again

Values = Mapping[str, np.ndarray]  # by plan: float [queries], nDCG@10


def compare(measured: Sequence[Mapping[str, Values]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(figures of each collection, their mean): nDCG@10 by plan, alone and fused, with paired differences.

    By plan: `alone`, and for each kind of evidence `ndcg@10` on held-back folds, `less_retriever` and `less_alone`
    with their intervals; for scores `less_order` too. `other_collections` is nDCG@10 with weights that were fitted on
    the other collections.

    measured: by collection, from `values_of` with fitted weights.
    """
    return [compared([each]) for each in measured], compared(measured)


def by_query(collection: Collection, values: Mapping[str, Values]) -> dict[str, Any]:
    """Figures of each judged query as JSON: nDCG@10 of the retriever's order, of whom tiers are compared with, and by
    plan of each tier alone and, if weights were fitted, fused with that order; `mrr@10` and `recall@10` of each tier
    alone and of whom it is compared with. values: from `values_of`."""

    def rounded(plans: Values) -> dict[str, list[float]]:
        return {plan: each.round(5).tolist() for plan, each in plans.items()}

    ways = {way: rounded(values[way]) for way in ("alone", "order", "against") if values.get(way)}
    others: dict[str, dict[str, list[float]]] = {"mrr@10": {}, "recall@10": {}}
    for name, result in {**collection.scored, **collection.against}.items():
        run = run_of(orders_of(result), collection.candidates)
        for measure, found in zip(others, by_query_of(run, collection.judged.qrels, [*others]), strict=True):
            others[measure][name] = found.round(5).tolist()
    return {"queries": [*collection.judged.queries], "retriever": rounded(values["retriever"])[""], **ways, **others}


def values_of(collection: Collection, fit: FusionFit | None) -> dict[str, Values]:
    """nDCG@10 of every query, by way of fusion and plan. fit: None for no fusion."""
    as_given = {query: np.arange(len(hits)) for query, hits in collection.candidates.items()}
    values: dict[str, Values] = {
        "retriever": {"": ndcg_of(collection, as_given)},
        "alone": values_by_plan(collection, collection.scored, retrieved=True),
        "against": {name: ndcg_of(collection, orders_of(result)) for name, result in collection.against.items()},
    }
    if fit is None:
        return values
    for evidence in EVIDENCE:
        values[evidence] = values_by_plan(collection, fit.held_back(collection, evidence), retrieved=False)
        if len(fit.folds) > 1:
            others = values_by_plan(collection, fit.from_others(collection, evidence), retrieved=False)
            values[f"{evidence} from others"] = others
    return values


def values_by_plan(collection: Collection, scored: Mapping[str, ScoredCandidates], retrieved: bool) -> Values:
    """nDCG@10 of every query when each tier scores all candidates, and in each cascade. retrieved: as in `cascade`."""
    orders = {tier: orders_of(result) for tier, result in scored.items()}
    for small, large in itertools.combinations(scored, 2):
        orders[f"{small}>{large} {KEPT}"] = {
            query: cascade(scores, scored[large].logits[query], KEPT, retrieved)
            for query, scores in scored[small].logits.items()
        }
    return {plan: ndcg_of(collection, order) for plan, order in orders.items()}


def orders_of(result: ScoredCandidates) -> dict[str, np.ndarray]:
    return {query: best_first(scores) for query, scores in result.logits.items()}


def ndcg_of(collection: Collection, orders: Mapping[str, np.ndarray]) -> np.ndarray:
    return ndcg_by_query(run_of(orders, collection.candidates), collection.judged.qrels)


def compared(measured: Sequence[Mapping[str, Values]]) -> dict[str, Any]:
    """Figures of one collection, or means over several, as the JSON object that `compare` describes."""

    def values(way: str, plan: str) -> list[np.ndarray]:
        return [collection[way][plan] for collection in measured]

    def figures(plan: str, evidence: str) -> dict[str, Any]:
        fused = values(evidence, plan)
        found: dict[str, Any] = {"ndcg@10": mean_over(fused)}
        if f"{evidence} from others" in measured[0]:
            found["other_collections"] = mean_over(values(f"{evidence} from others", plan))
        found["less_retriever"] = difference(fused, values("retriever", ""))
        found["less_alone"] = difference(fused, values("alone", plan))
        if evidence != "order":
            found["less_order"] = difference(fused, values("order", plan))
        return found

    return {
        plan: {
            "alone": mean_over(values("alone", plan)),
            **{evidence: figures(plan, evidence) for evidence in EVIDENCE},
        }
        for plan in measured[0]["alone"]
    }


def tiers_compared(
    measured: Sequence[Mapping[str, Values]], tiers: Sequence[str], against: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Each tier alone against the retriever's order, the best of all, and whom else it is compared with, over several
    collections.

    By tier, and by whom it is compared with, `interval` of its nDCG@10, `less_retriever`, `less_best` (but for the best
    itself), and for tiers `less_NAME`: as `difference`, and `p` of a paired randomisation test, by Holm's correction
    over those that are compared with the same.
    """
    alone = {name: [each["alone"][name] for each in measured] for name in tiers}
    alone |= {name: [each["against"][name] for each in measured] for name in against}
    best = max(alone, key=lambda name: mean_over(alone[name]))
    figures: dict[str, dict[str, Any]] = {name: {"interval": interval_of(values)} for name, values in alone.items()}
    bases = [("retriever", [each["retriever"][""] for each in measured], [*alone])]
    bases += [("best", alone[best], [name for name in alone if name != best])]
    bases += [(name, alone[name], [*tiers]) for name in against]
    for base, values, rest in bases:
        pairs = {name: [a - b for a, b in zip(alone[name], values, strict=True)] for name in rest}
        corrected = holm({name: randomisation_p(paired) for name, paired in pairs.items()})
        for name in rest:
            figures[name][f"less_{base}"] = difference(alone[name], values) | {"p": round(corrected[name], 4)}
    return figures


def mean_over(values: Sequence[np.ndarray]) -> float:
    """The mean over collections of the mean over queries."""
    return round(float(np.mean([each.mean() for each in values])), 4)


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, Any]:
    """{"mean", "interval"}: ours − theirs, and the 95% interval of a paired bootstrap over queries.

    The queries of every collection are drawn with replacement, and collections count equally. ours, theirs: by
    collection, float [queries].
    """
    paired = [a - b for a, b in zip(ours, theirs, strict=True)]
    return {"mean": mean_over(paired), "interval": interval_of(paired)}


def interval_of(values: Sequence[np.ndarray]) -> list[float]:
    """The 95% interval of the mean over collections of the mean over queries, by a bootstrap over queries."""
    draw = np.random.default_rng(SEED)
    means = np.mean([d[draw.integers(len(d), size=(ROUNDS, len(d)))].mean(axis=1) for d in values], axis=0)
    return [round(float(end), 4) for end in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
