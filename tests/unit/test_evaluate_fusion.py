"""Weights of fusion fitted on judged queries, and figures of held-back ones."""

from collections.abc import Mapping, Sequence
from math import log, log2
from typing import Any

import numpy as np
import pytest

from rankfleet.core.errors import RankfleetError
from rankfleet.estimates.quality import FleetQuality, parse_table
from rankfleet.evaluate import (
    Collection,
    FusionFit,
    ScoredCandidates,
    by_query,
    cascade,
    check_enough,
    compare,
    data_sets,
    values_of,
)
from rankfleet.evaluate.comparison import difference
from rankfleet.evaluate.fusion import WEIGHTS, best_weight, fold_of, fuse
from rankfleet.evaluate.measures import Gains, ndcg_by_query, padded, run_of
from rankfleet.evaluate.orders import best_first
from rankfleet.retrieval.bm25 import Hit
from rankfleet.retrieval.corpus import Judged

# One of three candidates is right: r, the second of the retriever's order x r y. Its evidence, beside that of x, is
# −ln 2; that of y is −ln 3.
#
# FUSED: r is above x for weights below 4.2, and above y for weights above 0.95. In WEIGHTS these are 1, 1.19 … 4.
FUSED = {"x": 0.0, "r": 4.2 * log(2), "y": 4.2 * log(2) + 0.95 * (log(3) - log(2))}
# ALONE: r is above x for weights below 0.002, and first without fusion.
ALONE = {"x": 0.0, "r": 0.002 * log(2), "y": -1.0}
SECOND = 1 / log2(3)  # nDCG of the only relevant document at the second rank


def collection(logits: Mapping[str, Mapping[str, float]], name: str = "made", bm25: Sequence[float] = (3, 2, 1)) -> Any:
    """Queries with the candidates x r y of these logits, by query; bm25: the retriever's scores of the three."""
    judged = Judged(dict.fromkeys(logits, ""), {query: {"r": 1} for query in logits})
    hits = {query: [Hit(each, each, score) for each, score in zip("xry", bm25, strict=True)] for query in logits}
    scored = {query: np.array([each[i] for i in "xry"], np.float32) for query, each in logits.items()}
    return Collection(name, 3, judged, hits, {"small": ScoredCandidates(scored)})


def in_fold(fold: int, count: int) -> list[str]:
    """Ids of so many queries of one fold."""
    return [query for query in map(str, range(1000)) if fold_of(query) == fold][:count]


def test_the_fold_of_a_query_is_the_same_everywhere() -> None:
    # The first 16 hexadecimal digits of the SHA-256 of "1", "2" and "3" sum up to 133, 121 and 118; 16 is 1 modulo 5.
    assert [fold_of(query) for query in "123"] == [3, 1, 3]


def test_ndcg_of_many_orders_is_that_of_ir_measures() -> None:
    draw = np.random.default_rng(5)
    judged, candidates = Judged({}, {}), {}
    for i in range(60):
        query = f"q{i}"
        documents = [f"d{n}" for n in draw.permutation(60)]
        judged.queries[query] = query
        # Grades from −1 to 3 for some of the candidates and for documents that were not found; at least one is above 0.
        judged.qrels[query] = {d: int(draw.integers(-1, 4)) for d in documents[: draw.integers(1, 30)]} | {"d7": 2}
        kept = [d for d in documents if draw.random() < 0.3] if i % 10 else []
        candidates[query] = [Hit(d, "", 1.0) for d in kept]
    scores = {query: draw.integers(0, 8, size=len(hits)) / 2 for query, hits in candidates.items()}
    ours = Gains.of(judged, candidates).ndcg(padded(list(scores.values()), -np.inf))
    run = run_of({query: best_first(each) for query, each in scores.items()}, candidates)
    theirs = ndcg_by_query(run, judged.qrels)
    np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)
    assert (theirs == 0).sum() >= 6, "a query in ten has no candidates"
    assert 0.1 < theirs.mean() < 0.9


def test_ndcg_of_an_order_by_hand() -> None:
    judged = Judged({"q": ""}, {"q": {"a": 2, "b": 1, "elsewhere": 1}})
    gains = Gains.of(judged, {"q": [Hit("c", "", 3.0), Hit("b", "", 2.0), Hit("a", "", 1.0)]})
    ideal = 2 + 1 / log2(3) + 1 / 2
    assert gains.ndcg(np.array([[1.0, 2.0, 3.0]]))[0] == pytest.approx((2 + 1 / log2(3)) / ideal)
    # ties stay as given: c b a
    assert gains.ndcg(np.zeros((1, 3)))[0] == pytest.approx((1 / log2(3) + 2 / 2) / ideal)


def test_the_best_weight_is_the_middle_of_the_highest_stretch() -> None:
    curve = np.where((WEIGHTS >= 1) & (WEIGHTS <= 4), 0.5, 0.4)
    assert best_weight(curve) == 2.0
    lucky = curve.copy()
    lucky[WEIGHTS == 64] = 0.9  # one point counts for its neighbours too, but with a ninth: 0.4 + 0.5 / 9 < 0.5
    assert best_weight(lucky) == 2.0


def test_without_a_better_weight_there_is_no_fusion() -> None:
    worse = np.where(WEIGHTS == 0, 0.5, 0.4)
    assert best_weight(worse) == 0.0
    assert best_weight(np.full(len(WEIGHTS), 0.5)) == 0.0
    lucky = worse.copy()
    lucky[WEIGHTS == 1] = 0.6  # one point
    assert best_weight(lucky) == 0.0


def test_a_weight_that_is_known_is_found() -> None:
    made = collection({str(i): FUSED for i in range(30)})
    fit = FusionFit.of([made])
    assert fit.weight("small") == 2.0
    assert fit.weights()["small"] == 2.0
    alone, _ = compare([values_of(made, fit)])
    assert alone[0]["small"]["alone"] == round(SECOND, 4)
    assert alone[0]["small"]["order"]["ndcg@10"] == 1.0
    gain = round(1 - SECOND, 4)  # BM25 has r second too
    assert alone[0]["small"]["order"]["less_alone"] == {"mean": gain, "interval": [gain, gain]}
    assert alone[0]["small"]["order"]["less_retriever"] == {"mean": gain, "interval": [gain, gain]}


def test_a_weight_is_not_judged_on_the_queries_it_was_fitted_on() -> None:
    # In fold 0 fusion helps, in all others it harms: fold 0 gets the weight of the others, though it would choose 2.
    logits = dict.fromkeys(in_fold(0, 10), FUSED)
    logits |= {query: ALONE for fold in (1, 2, 3, 4) for query in in_fold(fold, 10)}
    made = collection(logits)
    fit = FusionFit.of([made])
    assert fit.weight("small", fold=0) == 0.0
    own = FusionFit.of([collection(dict.fromkeys(in_fold(0, 30), FUSED))])
    assert own.weight("small") == 2.0
    held_back = fit.held_back(made, "order")["small"]
    for query in in_fold(0, 10):
        np.testing.assert_allclose(held_back.logits[query], made.scored["small"].logits[query], rtol=0)


def test_the_weight_for_a_fold_does_not_depend_on_its_queries() -> None:
    others = {query: FUSED for fold in (1, 2, 3, 4) for query in in_fold(fold, 5)}
    helped = FusionFit.of([collection(others | dict.fromkeys(in_fold(0, 40), FUSED))])
    harmed = FusionFit.of([collection(others | dict.fromkeys(in_fold(0, 40), ALONE))])
    assert helped.weight("small", fold=0) == harmed.weight("small", fold=0) == 2.0
    assert (helped.weight("small"), harmed.weight("small")) == (2.0, 0.0)


def test_figures_of_held_back_queries_differ_from_those_the_weight_was_fitted_on() -> None:
    # Fold 0 wants the weight 0, the others want 2. Fold 0 has most of the queries, so that 0 is best on all.
    logits = dict.fromkeys(in_fold(0, 50), ALONE)
    logits |= {query: FUSED for fold in (1, 2, 3, 4) for query in in_fold(fold, 10)}
    made = collection(logits)
    fit = FusionFit.of([made])
    assert fit.weight("small") == 0.0
    by_collection, _ = compare([values_of(made, fit)])
    # With 0, r is first in the 50 and second in the 40. Held back, fold 0 has weight 2, which puts x before r, and the
    # others have 0: r is second everywhere.
    in_sample = (50 + 40 * SECOND) / 90
    assert by_collection[0]["small"]["alone"] == round(in_sample, 4)
    fused = by_collection[0]["small"]["order"]
    assert fused["ndcg@10"] == round(SECOND, 4)
    assert fused["less_alone"]["mean"] == round(SECOND - in_sample, 4)
    assert fused["less_retriever"] == {"mean": 0.0, "interval": [0.0, 0.0]}


def test_collections_count_equally_whatever_their_number_of_queries() -> None:
    many = collection({str(i): FUSED for i in range(60)}, "many")
    few = collection({str(i): ALONE for i in range(6)}, "few")
    # Weight 2 gains 1 − SECOND in the one and loses as much in the other, so that nothing is better than 0.
    fit = FusionFit.of([many, few])
    assert fit.weight("small") == 0.0
    assert fit.weight("small", collection="few") == 2.0
    assert fit.weight("small", collection="many") == 0.0
    by_collection, mean = compare([values_of(each, fit) for each in (many, few)])
    assert by_collection[1]["small"]["order"]["other_collections"] == round(SECOND, 4)
    assert mean["small"]["alone"] == round((1 + SECOND) / 2, 4)


def test_scores_can_tell_what_the_order_cannot() -> None:
    # Five of 35 queries have r third by order with the weight that the others want: x has 0, y 2 − 2 ln 3 = −0.20 and r
    # 1 − 2 ln 2 = −0.39. The scores 10, 9.9 and 1 are 0.72, 0.70 and −1.41 deviations from their mean, so that r has
    # 2.4, x 1.4 and y −0.8.
    near = {str(i): {"x": 0.0, "r": 1.0, "y": 2.0} for i in range(30, 35)}
    made = collection({str(i): FUSED for i in range(30)} | near, bm25=(10, 9.9, 1))
    fit = FusionFit.of([made])
    assert fit.weight("small") == 2.0
    by_collection, _ = compare([values_of(made, fit)])
    by_order = (30 + 5 / 2) / 35
    assert by_collection[0]["small"]["order"]["ndcg@10"] == round(by_order, 4)
    assert by_collection[0]["small"]["scores"]["ndcg@10"] == 1.0
    assert by_collection[0]["small"]["scores"]["less_order"]["mean"] == round(1 - by_order, 4)


def test_fused_scores_are_those_that_are_served() -> None:
    made = collection({"1": FUSED})
    fused = fuse(made, "small", "order", {"1": 2.0}).logits["1"]
    mean = (0 + log(2) + log(3)) / 3
    assert fused == pytest.approx([2 * mean, FUSED["r"] + 2 * (mean - log(2)), FUSED["y"] + 2 * (mean - log(3))])


def test_in_a_cascade_the_fused_first_stage_alone_says_who_goes_on() -> None:
    small, large = np.array([1.0, 4.0, 3.0, 2.0]), np.array([9.0, 5.0, 7.0, 8.0])
    # 1 and 2 go on by score; with the retriever's order beside it 1 and 0 would.
    assert cascade(small, large, 2, retrieved=False).tolist() == [2, 1, 3, 0]
    assert cascade(small, large, 2).tolist() == [0, 1, 2, 3]


def last_is_right(kept: int) -> Collection:
    """Two more candidates than are kept. Only the last is relevant; small ranks it as the last of those kept, and large
    as the first. The retriever's first is small's last."""
    names = [f"d{i}" for i in range(kept + 2)]
    small = np.array([0.0, *range(kept + 2, 3, -1), 1.0, 2.0])
    queries = list(map(str, range(8)))
    judged = Judged(dict.fromkeys(queries, ""), {query: {names[-1]: 1} for query in queries})
    hits = {query: [Hit(name, name, 1.0) for name in names] for query in queries}
    logits = {"small": small, "large": np.arange(kept + 2.0)}
    scored = {tier: ScoredCandidates(dict.fromkeys(queries, each)) for tier, each in logits.items()}
    return Collection("made", kept + 2, judged, hits, scored)


def test_cascades_of_fused_scores_are_measured_as_they_are_served() -> None:
    # The retriever is wrong, so that both tiers get the weight 0, and small's scores alone say who goes on: the right
    # one does. Without fusion the retriever's order counts too, by reciprocal rank fusion: its first goes on instead,
    # and the right one follows behind those kept: 1/64 + 1/66 is more than 2/65.
    made = last_is_right(kept=5)
    [table] = data_sets([made], FusionFit.of([made])).values()
    assert table["cascades"]["small>large"] == {"5": round(1 / log2(7), 5)}
    assert table["fused"]["cascades"]["small>large"] == {"5": 1.0}
    made = last_is_right(kept=20)
    _, figures = compare([values_of(made, FusionFit.of([made]))])
    assert figures["small>large 20"]["alone"] == 0.0
    assert figures["small>large 20"]["order"]["ndcg@10"] == 1.0


def test_the_table_has_fused_figures_and_weights_that_a_fleet_reads() -> None:
    many = collection({str(i): FUSED for i in range(30)}, "many")
    few = collection({str(i): FUSED for i in range(20)}, "few")
    table = data_sets([many, few], FusionFit.of([many, few]))
    assert list(table) == ["mean", "many", "few"]
    assert "fused" not in data_sets([many, few], None)["mean"]
    for each in table.values():
        assert each["tiers"] == {"small": {"3": round(SECOND, 5)}}
        assert each["fused"]["tiers"] == {"small": {"3": 1.0}}
        assert each["fused"]["weights"]["small"] == 2.0
        known = parse_table(each, {"small": 0.0}, 0.0)
        quality = FleetQuality.of(known, each)
        assert quality.ranked.tiers == {"small": 1.0}
        assert quality.ranked.retriever == round(SECOND, 5)
        assert quality.unordered.tiers == {"small": round(SECOND, 5)}
        assert quality.weights["small"] == 2.0


def test_an_interval_is_over_queries_and_collections_count_equally() -> None:
    # Of two queries with differences 0 and 1, a draw has the mean 0, 0.5 or 1 with probabilities 1/4, 1/2 and 1/4.
    assert difference([np.array([0.5, 1.0])], [np.array([0.5, 0.0])]) == {"mean": 0.5, "interval": [0.0, 1.0]}
    constant = difference([np.full(9, 0.5), np.full(3, 0.9)], [np.full(9, 0.4), np.full(3, 0.4)])
    assert constant == {"mean": 0.3, "interval": [0.3, 0.3]}


def test_figures_by_query_are_of_the_order_given_and_of_each_plan() -> None:
    # FUSED needs a weight and gets 0, that of the other fold; ALONE needs 0 and gets 2.
    made = collection({in_fold(0, 1)[0]: FUSED, in_fold(1, 1)[0]: ALONE})
    values = values_of(made, None)
    second = round(SECOND, 5)
    figures = {"queries": [*made.candidates], "retriever": [second, second], "alone": {"small": [second, 1.0]}}
    figures |= {"mrr@10": {"small": [0.5, 1.0]}, "recall@10": {"small": [1.0, 1.0]}}
    assert by_query(made, values) == figures
    assert by_query(made, values_of(made, FusionFit.of([made]))) == figures | {"order": {"small": [second, second]}}


def test_too_few_queries_are_refused() -> None:
    with pytest.raises(RankfleetError, match="--fit-fusion needs 20 judged queries or more; there are 19"):
        check_enough([collection({str(i): FUSED for i in range(19)})])
    check_enough([collection({str(i): FUSED for i in range(10)}, name) for name in ("a", "b")])
