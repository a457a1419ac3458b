"""Which precision a model is computed in, and who decides it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.paths import RESULTS

from rankfleet.bench.results import read_results
from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.precision import measure_rate
from rankfleet.engine.runtime.rate_cache import RateCache, processor
from rankfleet.estimates.precision import Precision, Rates, choose
from tests.unit.fakes import FakeClock

ALL = ("float32", "bfloat16", "int8")
HARMLESS = {"bfloat16": 0.001, "int8": 0.0003}


class Stopwatch:
    """Says how fast each precision is, and keeps which ones it was asked for."""

    def __init__(self, **rates: float) -> None:
        self.rates = rates
        self.asked: list[list[str]] = []

    def __call__(self, dtypes: Sequence[str]) -> Rates:
        self.asked.append(list(dtypes))
        return {dtype: self.rates[dtype] for dtype in dtypes}


@pytest.mark.parametrize(
    ("wanted", "rates", "chosen"),
    [
        ("auto", {"float32": 175.0, "bfloat16": 124.0}, "float32"),
        ("auto", {"float32": 333.0, "bfloat16": 599.0}, "bfloat16"),
        ("auto", {"float32": 100.0, "bfloat16": 100.0}, "float32"),
        ("fastest", {"float32": 175.0, "bfloat16": 124.0, "int8": 367.0}, "int8"),
        ("fastest", {"float32": 333.0, "bfloat16": 599.0, "int8": 500.0}, "bfloat16"),
        ("fastest", {"float32": 700.0, "bfloat16": 599.0, "int8": 500.0}, "float32"),
    ],
)
def test_the_fastest_precision_wins(wanted: str, rates: dict[str, float], chosen: str) -> None:
    watch = Stopwatch(**rates)
    precision = choose(wanted, ALL, HARMLESS, watch)
    assert (precision.dtype, precision.pairs_per_s) == (chosen, rates)
    assert watch.asked == [list(rates)], "each is measured once, and `auto` does not measure int8"


@pytest.mark.parametrize(
    ("wanted", "computable", "costs", "measured"),
    [
        ("auto", ALL, {}, ["float32", "bfloat16"]),
        ("auto", ALL, {"bfloat16": 0.002}, ["float32", "bfloat16"]),
        ("auto", ALL, {"bfloat16": 0.0029}, None),
        ("auto", ("float32",), {}, None),
        ("fastest", ALL, {}, ["float32", "bfloat16"]),
        ("fastest", ALL, {"bfloat16": 0.0029, "int8": -0.0003}, ["float32", "int8"]),
        ("fastest", ALL, {"bfloat16": 0.0, "int8": 0.0021}, ["float32", "bfloat16"]),
        ("fastest", ("float32", "bfloat16"), HARMLESS, ["float32", "bfloat16"]),
    ],
)
def test_what_costs_too_much_or_cannot_be_computed_is_passed_over(
    wanted: str, computable: tuple[str, ...], costs: dict[str, float], measured: list[str] | None
) -> None:
    watch = Stopwatch(float32=3.0, bfloat16=2.0, int8=1.0)
    assert choose(wanted, computable, costs, watch).dtype == "float32"
    assert watch.asked == ([] if measured is None else [measured])


def test_the_reason_names_rates_and_what_was_passed_over() -> None:
    watch = Stopwatch(float32=175.4, int8=367.0)
    assert choose("fastest", ALL, {"bfloat16": 0.00289, "int8": 0.0}, watch) == Precision(
        "int8",
        "the fastest here: float32 175, int8 367 pairs/s on one thread; "
        "bfloat16 costs this model 0.0029 nDCG@10, more than 0.002",
        {"float32": 175.4, "int8": 367.0},
    )
    assert choose("fastest", ("float32", "int8"), {}, watch).reason == (
        "bfloat16 cannot be computed fast here; it was not measured what int8 costs this model"
    )


class TimedScorer:
    """Takes the given CPU seconds for each batch on a fake clock, in turn, and the last of them from then on."""

    max_pair = 512

    def __init__(self, *seconds: float) -> None:
        self.clock, self.seconds, self.batches = FakeClock(), list(seconds), 0

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        self.batches += 1
        assert len(pairs) == 4
        assert torch.get_num_threads() == 1
        return np.zeros(len(pairs), np.float32)

    @property
    def rate(self) -> float:
        return measure_rate(self, self.clock)


@pytest.mark.parametrize("fast", ALL)
def test_each_precision_wins_where_it_takes_the_least_time(fast: str) -> None:
    def measure(dtypes: Sequence[str]) -> Rates:
        return {dtype: TimedScorer(0.5 if dtype == fast else 1.0).rate for dtype in dtypes}

    precision = choose("fastest", ALL, HARMLESS, measure)
    assert precision.dtype == fast
    assert precision.pairs_per_s == {dtype: 8.0 if dtype == fast else 4.0 for dtype in ALL}


def test_the_first_round_warms_up_and_of_the_others_the_best_counts() -> None:
    scorer, threads = TimedScorer(0.01, 4.0, 2.0, 4.0), torch.get_num_threads()
    assert (scorer.rate, scorer.batches) == (2.0, 4)
    assert torch.get_num_threads() == threads


def test_a_clock_that_stands_still_for_a_round_gives_a_finite_rate() -> None:
    assert math.isfinite(TimedScorer(0.01, 0.0, 1.0).rate)


def test_short_batches_are_repeated_until_they_have_taken_long_enough() -> None:
    scorer = TimedScorer(2.0**-6)
    assert (scorer.rate, scorer.batches) == (256.0, 7), "7 / 64 s are the first above 0.1 s"


def test_rates_are_remembered_for_the_same_conditions_only(tmp_path: Path) -> None:
    cache = RateCache({"processor": "one"}, tmp_path / "new")
    assert cache.read(["float32"]) is None
    cache.write({"float32": 100.0, "bfloat16": 50.0})
    again = RateCache({"processor": "one"}, tmp_path / "new")
    assert again.read(["float32", "bfloat16"]) == {"float32": 100.0, "bfloat16": 50.0}
    assert again.read(["bfloat16"]) == {"bfloat16": 50.0}
    assert again.read(["float32", "int8"]) is None, "int8 is still to be measured"
    assert RateCache({"processor": "another"}, tmp_path / "new").read(["float32"]) is None
    assert len(list((tmp_path / "new").iterdir())) == 1, "no temporary file is left"


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "\xff",
        '{"pairs_per_s": null}',
        *(f'{{"pairs_per_s": {{"float32": {x}}}}}' for x in ("0", "-1", "NaN", "Infinity", "[]", '"fast"')),
    ],
)
def test_a_damaged_file_is_measured_anew(damaged: str, tmp_path: Path) -> None:
    cache = RateCache({}, tmp_path)
    cache.write({"float32": 1.0})
    next(tmp_path.iterdir()).write_text(damaged, encoding="latin-1")
    assert cache.read(["float32"]) is None
    cache.write({"float32": 2.0})
    assert cache.read(["float32"]) == {"float32": 2.0}


def test_a_folder_that_cannot_be_written_only_costs_a_measurement() -> None:
    cache = RateCache({}, Path("/dev/null/x"))
    cache.write({"float32": 1.0})
    assert cache.read(["float32"]) is None


def test_a_processor_is_known_by_its_first_core(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    core = "vendor_id\t: GenuineIntel\nmodel name\t: Xeon\ncpu MHz\t: 2{}00\n"
    cpuinfo.write_text(core.format(1) + "\n" + core.format(2))
    assert processor(cpuinfo) == {"vendor_id": "GenuineIntel", "model name": "Xeon"}
    assert processor(tmp_path / "absent") == {}


@pytest.mark.parametrize("tier", ["small", "medium", "large"])
def test_the_shipped_models_know_what_lower_precision_costs_them(tier: str) -> None:
    measured = read_results(RESULTS / "precision.json")["tiers"][tier]
    assert find_checkpoint(f"demo/{tier}").precision_costs == {
        dtype: -measured[dtype]["difference"] for dtype in ("bfloat16", "int8")
    }


def test_costs_have_to_be_numbers(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path).precision_costs == {}
    (tmp_path / "precision_costs.json").write_text(json.dumps({"int8": "none"}))
    with pytest.raises(CheckpointError, match="one number for each precision"):
        _ = Checkpoint(tmp_path).precision_costs
