"""Calibration maps fitted on judged queries, and how reliable they are on others."""

from math import log
from typing import Any

import numpy as np
import pytest

from rankfleet.estimates.calibration import Calibration
from rankfleet.estimates.quality import FleetQuality, parse_table
from rankfleet.evaluate import Collection, FusionFit, ScoredCandidates, calibrated, data_sets, reliability_of
from rankfleet.evaluate.calibration import Sample, alone, calibrations, fitted, held_back, levelled
from rankfleet.evaluate.fusion import fold_of
from rankfleet.evaluate.reliability import calibration_error, log_loss, reliability
from rankfleet.retrieval.bm25 import Hit
from rankfleet.retrieval.corpus import Judged


def sample(scores: list[float], relevant: list[int], queries: list[int] | None = None) -> Sample:
    """Of one collection whose candidates count equally."""
    count = len(scores)
    zeros, shares = np.zeros(count, int), np.full(count, 1 / count)
    own = zeros if queries is None else np.array(queries)
    return Sample(np.array(scores, float), np.array(relevant, bool), zeros, own, zeros, shares)


def collection(relevant: dict[str, str], name: str = "made", tiers: tuple[str, ...] = ("small",)) -> Any:
    """Queries of which four candidates score 0 (a b c d) and four 1 (e f g h). relevant: by query, their letters."""
    hits = {query: [Hit(each, each, 9.0 - i) for i, each in enumerate("abcdefgh")] for query in relevant}
    judged = Judged(dict.fromkeys(relevant, ""), {query: dict.fromkeys(own, 1) for query, own in relevant.items()})
    scored = ScoredCandidates({query: np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32) for query in relevant})
    return Collection(name, 8, judged, hits, dict.fromkeys(tiers, scored))


def test_the_map_is_that_of_the_greatest_likelihood() -> None:
    # A quarter of the candidates with 0 is relevant, and three quarters of those with 1: log-odds −ln 3 and ln 3
    own = fitted(sample([0, 0, 0, 0, 1, 1, 1, 1] * 500, [1, 0, 0, 0, 1, 1, 1, 0] * 500))
    assert own is not None
    assert (own.slope, own.intercept) == (pytest.approx(2 * log(3), abs=1e-3), pytest.approx(-log(3), abs=1e-3))


def test_no_map_where_nothing_can_be_told() -> None:
    assert fitted(sample([0, 1], [0, 0])) is None
    assert fitted(sample([0, 1], [1, 1])) is None
    assert fitted(sample([0, 1], [1, 0])) is None  # the relevant one scores less


def test_scores_that_separate_the_relevant_have_a_finite_slope() -> None:
    own = fitted(sample([0.0, 1.0], [0, 1]))
    assert own is not None
    assert own.slope < 100


def test_maps_are_levelled_to_the_mean_of_the_tiers() -> None:
    steps = [float(i) for i in range(1000)]
    samples = {"small": sample(steps, [0] * 1000), "large": sample(steps, [0] * 1000)}
    maps = {"small": Calibration(1.0, 0.0), "large": Calibration(3.0, -100.0)}
    # Quantiles q and 3q − 100, of which the mean is 2q − 50
    for own in levelled(maps, samples).values():
        assert (own.slope, own.intercept) == (pytest.approx(2.0), pytest.approx(-50.0))
    only = levelled({"small": maps["small"]}, samples)["small"]
    assert (only.slope, only.intercept) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))


def test_queries_and_collections_count_equally() -> None:
    many, few = collection({"1": "a", "2": "b"}, "many"), collection({"3": "c"}, "few")
    own = Sample.of([many, few], [each.scored["small"] for each in (many, few)])
    assert own.shares.tolist() == [1 / 32] * 16 + [1 / 16] * 8
    assert (own.collections.tolist(), own.queries.tolist()) == ([0] * 16 + [1] * 8, [0] * 8 + [1] * 8 + [2] * 8)
    assert [each.tolist() for each in own.by_query(own.relevant.astype(float))] == [[0.125, 0.125], [0.125]]


def test_a_query_is_calibrated_by_the_map_of_the_other_folds() -> None:
    # The queries of fold 0 have it the other way round: fitted on them, the map would be flatter.
    queries = [str(i) for i in range(2000)]
    made = collection({query: "abce" if fold_of(query) == 0 else "aefg" for query in queries})
    own, log_odds = held_back([made], alone)["small"]
    first = own.folds == 0
    assert log_odds[first & (own.scores == 1)] == pytest.approx(log(3), abs=1e-3)
    assert log_odds[first & (own.scores == 0)] == pytest.approx(-log(3), abs=1e-3)
    assert abs(log_odds[~first]).max() < 0.8


def test_too_few_queries_have_no_maps() -> None:
    few = collection({str(i): "ae" for i in range(19)})
    assert calibrations([few], alone) == {}
    assert reliability_of([few], None) == {"alone": {}}


def test_measures_of_probabilities() -> None:
    # Log-odds 0 and ln 3 are .5 and .75; those who are relevant and score .5 and .75, or not, as plain sigmoids
    own = sample([log(3), 0.0], [1, 0], queries=[0, 1])
    found = reliability(own, np.array([log(3), log(3)]))
    assert (found["brier"], found["plain"]["brier"]) == (0.3125, 0.1562)  # (1/16 + 9/16) ÷ 2, (1/16 + 1/4) ÷ 2
    assert found["less_plain"]["brier"]["mean"] == 0.1562
    assert (found["log_loss"], found["plain"]["log_loss"]) == (
        0.837,
        0.4904,
    )  # (ln 4/3 + ln 4) ÷ 2, (ln 4/3 + ln 2) ÷ 2
    assert log_loss(np.array([800.0]), np.array([False])).tolist() == [800.0]


def test_the_calibration_error_is_over_bins_of_equally_many() -> None:
    shares = np.full(60, 1 / 60)
    relevant = np.array([True, False] * 30)
    assert calibration_error(np.zeros(60), relevant, shares) == pytest.approx(0.0)
    # Of the 30 with log-odds ln 3 a half is relevant: for one of two candidates the probability is a quarter too high.
    assert calibration_error(np.repeat([0.0, log(3)], 30), relevant, shares) == pytest.approx(0.125)


def test_a_table_has_maps_that_a_fleet_reads() -> None:
    tiers = ("small", "large")
    many = collection({str(i): "aefg" for i in range(40)}, "many", tiers)
    other = collection({f"o{i}": "bch" for i in range(30)}, "other", tiers)
    fit = FusionFit.of([many, other])
    tables = calibrated(data_sets([many, other], fit), [many, other], fit)
    assert list(tables) == ["mean", "many", "other"]
    own = tables["many"]["calibration"]["small"]
    assert (own["slope"], own["intercept"]) == (pytest.approx(2 * log(3), abs=0.01), pytest.approx(-log(3), abs=0.01))
    assert "small" not in tables["other"]["calibration"]  # its relevant candidates score less
    quality = FleetQuality.of(parse_table(tables["many"], dict.fromkeys(tiers, 0.0), 0.0), tables["many"])
    assert quality.calibration["large"] == Calibration(**tables["many"]["calibration"]["large"])
    assert quality.ranked_calibration["large"] == Calibration(**tables["many"]["fused"]["calibration"]["large"])
    assert "fused" not in calibrated(data_sets([many], None), [many], None)["many"]
