"""Which tier is enough: verdicts by hand, published figures, replicas, words, and the way from a file to a fleet."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rankfleet.cli import app, evaluate, recommend  # noqa: F401  (registers the verbs)
from rankfleet.core.errors import ConfigError, UnknownModel
from rankfleet.core.fleet_file import parse_config, read_config
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import read_profile
from rankfleet.estimates.quality import fleet_quality
from rankfleet.recommend.choice import Choice, Goal, Option, choose, enough_queries
from rankfleet.recommend.figures import figures_of, measured_figures
from rankfleet.recommend.fleet_file import chosen_fleet, reduced
from rankfleet.recommend.sizing import Sizing, Traffic, size
from rankfleet.recommend.words import Recommendation, table_of
from tests.unit.fakes import fleet

ROOT = Path(__file__).parents[2]


def option(name: str, ms: float | None, *values: Sequence[float] | np.ndarray, p99_ms: float | None = None) -> Option:
    """A tier with these values by collection."""
    arrays = [np.array(each) for each in values]
    return Option(((name, None),), float(np.mean([each.mean() for each in arrays])), ms, p99_ms, arrays)


def spread(count: int, loss: float, by: float = 0.1) -> list[float]:
    """nDCG@10 of so many queries, which lie `loss` below 0.5 on average, half of them `by` more and half less."""
    return [0.5 - loss - by, 0.5 - loss + by] * (count // 2)


def verdicts(choice: Choice) -> dict[str, str]:
    return {each.option.name: each.verdict for each in choice.assessed}


# The normal distribution has 95% below 1.644854 and 97.5% below 1.959964.


def test_a_small_loss_over_many_queries_is_shown_to_be_small() -> None:
    large = option("large", 100.0, [0.5] * 2000)
    choice = choose([large, option("small", 10.0, spread(2000, 0.004))], Goal(max_loss=0.01))
    small, best = choice.assessed
    # se² = 0.1² ÷ 2000 + (0.5 ÷ 2000)² = 5.0625e-6, se = 0.00225; 1.644854 se = 0.003701
    assert small.interval == pytest.approx((0.000299, 0.007701), abs=1e-6)
    assert (choice.chosen, choice.shown, choice.best) == (small, True, large)
    assert (best.loss, best.interval, best.verdict) == (0.0, None, "enough")


def test_too_few_queries_cannot_tell_and_say_how_many_would() -> None:
    large = option("large", 100.0, [0.5] * 100)
    choice = choose([large, option("small", 10.0, spread(100, 0.004))], Goal(max_loss=0.01))
    small, best = choice.assessed
    # se² = 0.1² ÷ 100 + (0.5 ÷ 100)² = 1.25e-4, se = 0.0111803; 1.644854 se = 0.018390
    assert small.interval == pytest.approx((-0.014390, 0.022390), abs=1e-6)
    # With 776 queries se² = 0.01 ÷ 776 + (0.5 ÷ 776)² = 1.33018e-5 and 1.644854 se = 0.0059990: just below 0.006.
    assert (small.verdict, small.queries) == ("cannot tell", 780)
    assert (choice.chosen, choice.shown) == (best, True)


def test_a_loss_above_the_allowed_is_told_too() -> None:
    choice = choose([option("large", 100.0, [0.5] * 100), option("small", 10.0, spread(100, 0.04))], Goal(0.01))
    assert choice.assessed[0].interval == pytest.approx((0.021610, 0.058390), abs=1e-6)
    assert verdicts(choice) == {"small": "loses too much", "large": "enough"}


def test_of_several_options_each_has_to_be_surer() -> None:
    tiers = [option("large", 100.0, [0.5] * 2000), option("small", 10.0, spread(2000, 0.004))]
    choice = choose([*tiers, option("medium", 50.0, spread(2000, 0.002))], Goal(0.01))
    # Two are cheaper than the best: 1.959964 se = 0.004410
    assert choice.assessed[0].interval == pytest.approx((-0.000410, 0.008410), abs=1e-6)
    assert choice.chosen is not None
    assert choice.chosen.option.name == "small"
    # An option that costs more than the best is no candidate, and takes nothing from the others.
    costly = choose([*tiers, option("huge", 500.0, spread(2000, 0.002))], Goal(0.01))
    assert costly.assessed[0].interval == pytest.approx((0.000299, 0.007701), abs=1e-6)


def test_collections_count_equally() -> None:
    large = option("large", 100.0, [0.5] * 100, [0.5] * 25)
    choice = choose([large, option("small", 10.0, spread(100, 0.004), [0.48] * 25)], Goal(0.01))
    # se² = 0.1² ÷ 100 ÷ 2² + (0.5 ÷ 125)² = 4.1e-5, se = 0.00640312; 1.644854 se = 0.010532
    assert choice.assessed[0].loss == pytest.approx(0.012)
    assert choice.assessed[0].interval == pytest.approx((0.001468, 0.022532), abs=1e-6)


def test_ten_queries_on_which_two_tiers_agree_prove_nothing() -> None:
    choice = choose([option("large", 100.0, [0.5] * 10), option("small", 10.0, [0.5] * 10)], Goal(0.01))
    # 1.644854 · 0.5 ÷ 82.2427 = 0.01
    assert (choice.assessed[0].verdict, choice.assessed[0].queries) == ("cannot tell", 83)
    assert choose([option("large", 1.0, [0.5] * 90), option("small", 0.5, [0.5] * 90)], Goal(0.01)).shown
    # Fewer than 20 are too few however clear they are.
    clear = choose([option("large", 100.0, [0.9] * 19), option("small", 10.0, [0.1] * 19)], Goal(0.01))
    assert (clear.assessed[0].verdict, clear.assessed[0].queries) == ("cannot tell", 20)


@pytest.mark.parametrize("queries", [20, 60, 200])
def test_too_large_a_loss_passes_for_enough_one_time_in_twenty_at_most(queries: int) -> None:
    # One query in ten loses 0.25, and a little less than the mean of 0.025 is allowed.
    draw, tries = np.random.default_rng(1), 500
    large = option("large", 2.0, [0.5] * queries)
    losses = np.where(draw.random((tries, queries)) < 0.1, 0.25, 0.0)
    choices = [choose([large, option("small", 1.0, 0.5 - own)], Goal(0.0249)) for own in losses]
    wrong = sum(choice.assessed[0].verdict == "enough" for choice in choices)
    assert wrong / tries <= 0.05 + 2 * 0.01  # a share of 500 varies by 0.01


def test_a_loss_of_exactly_what_is_allowed_is_never_told() -> None:
    assert enough_queries(spread=0.01, whole=0.5, distance=0.0, z=1.6) is None
    assert enough_queries(spread=0.01, whole=0.5, distance=1e-6, z=1.6) is None  # 26 billion


def test_a_target_is_reached_with_confidence_or_not() -> None:
    tiers = [option("large", 100.0, spread(2000, 0.0)), option("small", 10.0, spread(2000, 0.004))]
    # Both are tried: 1.959964 · 0.00225 = 0.004410; small's mean is 0.496.
    assert verdicts(choose(tiers, Goal(target=0.491))) == {"small": "enough", "large": "enough"}
    assert verdicts(choose(tiers, Goal(target=0.494))) == {"small": "cannot tell", "large": "enough"}
    none = choose(tiers, Goal(target=0.6))
    assert verdicts(none) == {"small": "loses too much", "large": "loses too much"}
    assert none.chosen is not None
    assert (none.chosen.option.name, none.shown) == ("large", False)


def test_only_what_fits_the_budget_and_has_a_time_is_chosen() -> None:
    large = option("large", 100.0, [0.5] * 2000, p99_ms=120.0)
    medium = option("medium", 50.0, spread(2000, 0.04), p99_ms=60.0)
    untimed = option("other", None, spread(2000, 0.001))
    choice = choose([large, medium, untimed], Goal(0.01, slo_ms=100.0))
    assert [each.option.name for each in choice.assessed] == ["medium", "large", "other"]
    assert choice.chosen is not None
    assert (choice.chosen.option.name, choice.shown) == ("medium", False)
    assert choose([large, medium], Goal(0.01, slo_ms=50.0)).chosen is None


def test_published_figures_choose_by_their_means_and_say_that_they_have_no_intervals() -> None:
    figures, models = figures_of(None, ranked=False)
    shipped = read_profile(ROOT / "configs/profiles/h100-published.json")
    assert {tier: round(models[tier].beta_ms, 10) for tier in shipped} == {
        tier: model.beta_ms for tier, model in shipped.items()
    }
    gpu = read_config(ROOT / "configs/gpu.yaml")
    assert {tier: figures.qualities[tier] for tier in gpu.tiers} == {t: each.quality for t, each in gpu.tiers.items()}
    assert figures.given.quality == pytest.approx(
        read_config(ROOT / "configs/sim-fleet.yaml").quality.retriever, abs=5e-5
    )
    timed = figures.timed(models, 100, 154, {"400m": 65536})
    # 15,400 tokens of 3.7361948 µs, and 15,400 ÷ 65,536 of 6 ms: 57.537 + 1.410
    assert {each.name: each.ms for each in timed.options}["400m"] == pytest.approx(58.947, abs=1e-3)
    said = Recommendation(timed, choose(timed.options, Goal(0.01))).paragraph()
    assert said.startswith("Run 400m, by published figures, which are not of your data and come without intervals:")
    assert "loses 0.0024 against the best, mxbai-large-v2 with 0.6115: within the 0.01 allowed." in said
    assert "95%" not in said
    assert "The order in which the candidates come has nDCG@10 0.4934." in said
    # 0.6115 − 0.5915 is 0.02, to the last digit.
    assert choose(timed.options, Goal(0.02)).chosen.option.name == "68m"  # type: ignore[union-attr]


# Two tiers and their cascade on thirty queries, of which two thirds are alike for all.
BY_QUERY = {
    "queries": [f"q{i}" for i in range(30)],
    "retriever": [0.3] * 30,
    "alone": {"small": [0.4, 0.5, 0.6] * 10, "large": [0.6, 0.5, 0.6] * 10, "small>large 20": [0.6, 0.5, 0.6] * 10},
    "order": {"small": [0.5, 0.5, 0.6] * 10, "large": [0.6, 0.6, 0.6] * 10, "small>large 20": [0.6, 0.6, 0.6] * 10},
}
TABLE = {
    "retriever": 0.3,
    "tiers": {"small": {"20": 0.45, "100": 0.5}, "large": {"100": 0.5667}},
    "cascades": {"small>large": {"20": 0.5667}},
    "fused": {"weights": {"small": 2.0, "large": 1.0}, "tiers": {"small": {"100": 0.5333}, "large": {"100": 0.6}}},
}
EVALUATED: dict[str, Any] = {
    "data": "made",
    "queries": 30,
    "top_k": 100,
    "retriever": {"name": "bm25", "ndcg@10": 0.3},
    "tiers": {"small": {"ndcg@10": 0.5, "p50_ms": 10.0}, "large": {"ndcg@10": 0.5667, "p50_ms": 100.0}},
    "by_query": BY_QUERY,
    "data_sets": {"made": TABLE},
}


def test_figures_of_a_file_are_those_of_the_tiers_alone_or_fused() -> None:
    alone, fused = (measured_figures(EVALUATED, ranked) for ranked in (False, True))
    assert {each.name: (round(each.quality, 4), each.ms) for each in alone.options} == {
        "small": (0.5, 10.0),
        "large": (0.5667, 100.0),
        "small, then large on 20": (0.5667, 30.0),  # 10 + 100 · 20 ÷ 100
    }
    assert [round(each.quality, 4) for each in fused.options] == [0.5333, 0.6, 0.6]
    assert (alone.source, fused.source) == ("30 queries of made", "30 queries of made, fused with the order of bm25")
    assert (alone.queries, alone.top_k, alone.given.quality) == (30, 100, pytest.approx(0.3))
    assert alone.qualities == fused.qualities == {"small": 0.5, "large": 0.5667}
    both = {"collections": [EVALUATED, EVALUATED | {"data": "more"}], "mean": EVALUATED, "data_sets": {}}
    assert measured_figures(both, ranked=False).source == "60 queries of made, more"
    unfitted = EVALUATED | {"by_query": {key: value for key, value in BY_QUERY.items() if key != "order"}}
    assert [round(each.quality, 4) for each in measured_figures(unfitted, ranked=True).options] == [0.5, 0.5667, 0.5667]


def test_times_are_those_of_the_profile() -> None:
    models = {"small": LatencyModel(1.0, 0.01, 0.0, 1.5), "large": LatencyModel(2.0, 0.1, 0.001)}
    figures = measured_figures(EVALUATED, ranked=False)
    small, large, both = figures.timed(models, 50, 10, {"small": 1000, "large": 1000}).options
    # small: 5 ms and half of a batch's 1 ms; its 99th percentile is 1.5 · 6 + 5. large: 50 + 5 ms, and half of 2.
    assert (small.ms, small.p99_ms) == (pytest.approx(5.5), pytest.approx(14.0))
    assert (large.ms, large.p99_ms) == (pytest.approx(56.0), pytest.approx(57.0))
    # Large on 20: 20 + 2 ms, and a fifth of 2.
    assert (both.ms, both.p99_ms) == (pytest.approx(5.5 + 22.4), pytest.approx(14.0 + 24.0))
    [untimed] = replace(figures, options=[large]).timed({}, 50, 10, {"small": 1000}).options
    assert (untimed.ms, untimed.p99_ms) == (None, None)


# A token takes 0.1 and 1.6 ms. Ten pairs of ten tokens: 10 ms with small; with large on five of them 80 ms more.
MODELS = {"small": LatencyModel(0.0, 0.1, 0.0), "large": LatencyModel(0.0, 1.6, 0.0)}
SMALL = Option((("small", None),), 0.3, 10.0)
BOTH = Option((("small", None), ("large", 5)), 0.5, 90.0)


def test_replicas_are_those_that_leave_enough_time_idle() -> None:
    idle = fleet(network_ms=0)
    # 100 requests of 10 ms a second are the work of one replica; 0.7 of the time of two is more.
    sizing = size(idle, MODELS, SMALL, Traffic(100.0, 100.0, 10, 10), requests=100)
    assert sizing is not None
    assert (sizing.replicas, sizing.attainment) == (2, 1.0)
    # Ten replicas' worth is simulated as two parts of 500 requests a second; 0.7 of the time of eight is more.
    much = size(idle, MODELS, SMALL, Traffic(1000.0, 40.0, 10, 10), requests=100)
    assert much is not None
    assert much.replicas == 16


def test_a_cascade_is_in_time_only_with_both_of_its_stages() -> None:
    idle = fleet(network_ms=0)
    sizing = size(idle, MODELS, BOTH, Traffic(0.05, 95.0, 10, 10), requests=20)
    assert sizing is not None
    assert sizing.replicas == 1
    assert sizing.p99_ms == pytest.approx(90.0)
    assert size(idle, MODELS, BOTH, Traffic(0.05, 85.0, 10, 10), requests=20) is None


def test_what_it_takes_and_what_cannot_be_told_are_said() -> None:
    figures = measured_figures(EVALUATED, ranked=False)
    choice, traffic = choose(figures.options, Goal(0.1)), Traffic(50.0, 200.0, 100, 154)
    said = Recommendation(figures, choice, traffic, Sizing(3, 0.9951, 142.4, 0.7)).paragraph()
    # small loses 0.2, 0 and 0 by turns: A = 0.2² · 2 ÷ 9, se² = A ÷ 30 + (0.5667 ÷ 30)² = 0.00065310 and, for the two
    # cheaper options, 1.959964 se = 0.050089; 0.0667 + 0.0501 is above 0.1. With 52.06 queries it is 0.0333.
    assert said == (
        "Run small, then large on 20: nDCG@10 0.5667 on 30 queries of made; it loses 0.0000 "
        "(-0.0370 to +0.0370) against the best, large with 0.5667: within the 0.1 allowed, with 95% confidence. "
        "It saves 70% of the device time: "
        "30.0 ms a request, not 100.0. 50 requests/s of 100 candidates take 3 replicas: simulated, 99.5% are answered "
        "within 200 ms, 99% of these within 142 ms. The order in which the candidates come has nDCG@10 0.3000. "
        "30 queries are too few to tell whether something cheaper is enough: small (about 53 would)."
    )
    none = Recommendation(figures, choice, traffic, None).paragraph()
    assert "No number of replicas answers 99% of 50 requests/s of 100 candidates within 200 ms." in none


def test_the_order_given_may_be_enough_without_a_reranker() -> None:
    figures = measured_figures(EVALUATED, ranked=False)
    loose = Recommendation(figures, choose(figures.options, Goal(0.9))).paragraph()
    assert "has nDCG@10 0.3000, which is enough without any reranker." in loose
    better = replace(figures, given=option("", 0.0, [0.32, 0.92] * 15))
    # 0.05 better than large, give or take 0.12: enough if 0.1 may be lost, and not to be told if 0.01 may.
    assert "0.6200, which is enough" in Recommendation(better, choose(figures.options, Goal(0.1))).paragraph()
    strict = Recommendation(better, choose(figures.options, Goal(0.01))).paragraph()
    assert "has nDCG@10 0.6200: better than large's." in strict
    assert "the best of 3 options; none that costs less is shown to lose at most 0.01." in strict


def test_the_best_that_fits_the_budget_is_said_to_lose_more_than_allowed() -> None:
    models = {"small": LatencyModel(0.0, 0.01, 0.0), "large": LatencyModel(0.0, 1.0, 0.0)}
    figures = measured_figures(EVALUATED, ranked=False).timed(models, 100, 10, {"": 1000})
    said = Recommendation(figures, choose(figures.options, Goal(0.001, slo_ms=20.0))).paragraph()
    assert "Run small: nDCG@10 0.5000 on 30 queries of made, the best within 20 ms; it loses 0.0667 (" in said
    assert "against the best, large with 0.5667: above the 0.001 allowed." in said
    none = Recommendation(figures, choose(figures.options, Goal(0.001, slo_ms=5.0))).paragraph()
    assert none == "No option is known to answer within 5 ms: the fastest takes 10.0 ms on an idle device."
    target = Recommendation(figures, choose(figures.options, Goal(target=0.5))).paragraph()
    assert target.startswith(
        "Run small, then large on 20: nDCG@10 0.5667 on 30 queries of made, at least 0.5 with 95% confidence."
    )


def test_the_table_has_a_row_for_each_option_and_no_empty_column() -> None:
    figures = measured_figures(EVALUATED, ranked=False)
    rows = Recommendation(figures, choose(figures.options, Goal(0.1))).to_json()["options"]
    header, cells = table_of(rows)
    assert header == ["", "nDCG@10", "lost", "95%", "ms a request", "saved", "verdict", "queries that would"]
    assert [row[0] for row in cells] == ["small", "small, then large on 20", "large"]
    assert cells[0][-3:] == ["90%", "cannot tell", "53"]
    assert cells[2] == ["large", "0.5667", "0.0000", "", "100.0", "0%", "enough", ""]


def test_a_reduced_fleet_has_the_chosen_tiers_in_the_group_of_the_last() -> None:
    groups = {"one": {"tiers": ["small"]}, "two": {"tiers": ["medium", "large"], "threads": 3, "batch_tokens": 4096}}
    scaling = {"groups": {"one": {"utilisation": 0.5}, "two": {"utilisation": 0.6}}}
    config = fleet(groups=groups, default_model="medium", autoscaling=scaling)
    settings = reduced(config, ("small", "large"))
    assert list(settings["tiers"]) == ["small", "large"]
    assert settings["groups"] == {"two": {"tiers": ["small", "large"], "threads": 3, "batch_tokens": 4096}}
    assert settings["autoscaling"]["groups"] == {"two": {"utilisation": 0.6}}
    assert "default_model" not in settings
    assert parse_config(settings).default_model == "auto"


def test_a_fleet_file_that_names_a_tier_that_is_gone_is_refused() -> None:
    arms = {"a": {"model": "medium", "weight": 1}}
    with pytest.raises(ConfigError, match=r"the recommended fleet: experiments\.split\.arms\.a: no tier is named"):
        chosen_fleet(fleet(experiments={"split": {"arms": arms}}), SMALL, {"small": 0.3}, "t.json", 2, None)


def test_replicas_of_a_group_in_the_router_are_routers() -> None:
    group = {"tiers": ["small", "medium", "large"], "in_router": True}
    settings = chosen_fleet(fleet(groups={"all": group}), SMALL, {"small": 0.3}, "t.json", 2, "p.json")
    assert (settings["routers"], settings["profile"]) == (2, "p.json")
    assert "replicas" not in settings["groups"]["all"]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with the figures of 300 queries, and a profile of the demo tiers."""
    by_query = {way: {p: v * 10 for p, v in BY_QUERY[way].items()} for way in ("alone", "order")}  # type: ignore[attr-defined]
    whole = by_query | {"queries": [f"q{i}" for i in range(300)], "retriever": [0.3] * 300}
    (tmp_path / "quality.json").write_text(json.dumps(EVALUATED | {"queries": 300, "by_query": whole}))
    models = {tier: model.to_json() for tier, model in MODELS.items()}
    (tmp_path / "profile.json").write_text(json.dumps({"measured": {}, "tiers": models}))
    return tmp_path


def run(folder: Path, *words: str) -> Any:
    asked = ["recommend", "--from", str(folder / "quality.json"), *words]
    return CliRunner().invoke(app, [*asked, "--json", str(folder / "figures.json")])


def test_from_a_file_of_figures_to_a_fleet_that_runs_the_choice(made: Path) -> None:
    written, picture = made / "fleet.yaml", made / "picture.png"
    budget = ("--slo-ms", "2000", "--qps", "0.5", "--candidates", "30", "--tokens", "10")
    files = ("--profile", str(made / "profile.json"), "--plot", str(picture), "--write", str(written))
    result = run(made, *budget, *files)
    assert result.exit_code == 0, result.output
    figures = json.loads((made / "figures.json").read_text())
    assert (figures["recommended"], figures["shown"]) == ("small, then large on 20", True)
    # small on 30 takes 30 ms, large on 20 takes 320 ms: less than a fifth of a replica's time at one in two seconds
    assert figures["options"][1]["ms"] == 350.0
    assert figures["sizing"]["replicas"] == 1
    assert figures["paragraph"] in result.output.replace("\n", " ")
    assert picture.read_bytes().startswith(b"\x89PNG")
    config = read_config(written)
    assert list(config.tiers) == ["small", "large"]
    assert config.replicas_of("demo").min == figures["sizing"]["replicas"]
    quality = fleet_quality(config)
    assert quality.weights == {"small": 2.0, "large": 1.0}
    assert quality.unordered.cascades == {("small", "large"): {20: 0.5667}}
    assert config.profile == str((made / "profile.json").resolve())
    assert written.read_text().startswith("# Run small, then large on 20: nDCG@10 0.6000 on 300 queries of made, fused")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--qps", "2"), "--qps needs --slo-ms"),
        (("--slo-ms", "100"), "--slo-ms needs --profile FILE"),
        (("--max-loss", "0.1", "--target-ndcg", "0.5"), "give either --max-loss or --target-ndcg"),
        (("--write", "{folder}/profile.json"), "profile.json exists; name a new file"),
    ],
)
def test_what_cannot_be_answered_is_refused(made: Path, words: tuple[str, ...], message: str) -> None:
    result = run(made, *(word.format(folder=made) for word in words))
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_a_file_without_figures_by_query_is_refused(made: Path) -> None:
    (made / "quality.json").write_text(json.dumps({"tiers": {}}))
    result = run(made)
    assert isinstance(result.exception, ConfigError)
    assert "has no figures by query (KeyError('by_query')); write it anew with `rankfleet evaluate --json`" in str(
        result.exception
    )


def test_a_choice_that_the_fleet_does_not_have_is_not_written(made: Path) -> None:
    result = CliRunner().invoke(app, ["recommend", "--config", "demo", "--write", str(made / "new.yaml")])
    assert isinstance(result.exception, UnknownModel)
    assert "there is no tier '400m'" in str(result.exception)
