"""Online correction of latency models."""

import math
import random
from dataclasses import replace

import pytest

from rankfleet.estimates.correction import HALF_LIFE_S, SHORT_MS, WHOLE_MS, Correction
from rankfleet.estimates.latency import SPREAD_MS, LatencyModel

MODEL = LatencyModel(2.0, 0.1, 0.01, 1.3)


def test_one_batch_corrects_all_models_a_little_and_its_own_a_little_more() -> None:
    correction = Correction()
    correction.observed("t", MODEL, 20.0, 24.0)
    assert correction.factor("t") == pytest.approx(1.2**0.25)
    assert correction.factor("u") == pytest.approx(1.2**0.2), "the device got slower"


def test_a_batch_counts_by_its_length() -> None:
    correction = Correction()
    correction.observed("t", MODEL, 5.0, 6.0)
    assert correction.factor("t") == pytest.approx(1.2 ** (0.25 * 5.0 / WHOLE_MS))
    for _ in range(200):  # a few milliseconds that all batches take longer, as on a processor that others use too
        for profiled_ms in (5.0, 5.0, 5.0, 5.0, 100.0):
            correction.observed("t", MODEL, profiled_ms, profiled_ms + 5.0)
    assert correction.factor("t") < 1.5, "1.7 is the mean of the five"


def test_one_batch_that_hangs_corrects_by_a_bounded_step() -> None:
    correction = Correction()
    correction.observed("t", MODEL, 20.0, 10_000.0)
    assert correction.factor("u") == pytest.approx(math.exp(0.05))
    assert correction.factor("t") == pytest.approx(math.exp(0.1))


@pytest.mark.parametrize("profiled_ms", [0.2, 1.0, SHORT_MS - 0.1, SHORT_MS, 10.0, 1000.0])
def test_a_device_half_as_fast_is_followed_within_ten_batches_or_200_ms(profiled_ms: float) -> None:
    correction, flat = Correction(), LatencyModel(profiled_ms, 0.0, 0.0)
    for _ in range(10 if profiled_ms < SHORT_MS else int(10 * max(1.0, WHOLE_MS / profiled_ms))):
        correction.observed("t", flat, profiled_ms, 2 * profiled_ms)
    assert correction.corrected("t", flat).alpha_ms == pytest.approx(2 * profiled_ms, rel=0.1)
    if profiled_ms >= SHORT_MS:
        assert correction.factor("u") > 1.4


def test_what_short_batches_take_beyond_the_profile_does_not_make_long_ones_look_slow() -> None:
    correction, rng = Correction(), random.Random(1)
    for _ in range(2000):
        correction.observed("t", MODEL, 1.1, 1.4 + rng.expovariate(1.0))
    model = correction.corrected("t", MODEL)
    assert model == replace(MODEL, alpha_ms=MODEL.alpha_ms + correction.overhead_ms)
    assert correction.overhead_ms == pytest.approx(1.3, abs=0.7)


def test_the_factor_does_not_decide_which_batches_raise_it() -> None:
    correction = Correction()
    for _ in range(100):
        correction.observed("t", MODEL, 100.0, 200.0)
    for _ in range(100):  # half as long again as the factor says, which makes the second a long one
        correction.observed("t", MODEL, 2.0, 6.0)
        correction.observed("t", MODEL, 4.0, 12.0)
    assert correction.factor("t") == pytest.approx(2.0, rel=0.01)


def test_a_short_batch_that_hangs_says_little() -> None:
    correction = Correction()
    correction.observed("t", MODEL, 1.0, 10_000.0)
    assert correction.overhead_ms == pytest.approx(0.25 * SHORT_MS)
    correction.observed("t", MODEL, 1.0, 1.0)
    assert correction.overhead_ms < 0.25 * SHORT_MS


def test_a_device_that_does_less_for_a_batch_than_profiled_takes_no_negative_time() -> None:
    correction, flat = Correction(), LatencyModel(2.0, 1.0, 0.0)
    for _ in range(50):
        correction.observed("t", flat, 2.0, 0.5)
    assert correction.corrected("t", flat).alpha_ms == pytest.approx(0.5, abs=0.01)
    assert correction.corrected("u", LatencyModel(0.1, 1.0, 0.0)).alpha_ms == 0.0


def test_a_model_that_is_off_alone_is_corrected_alone() -> None:
    correction = Correction()
    for _ in range(300):
        correction.observed("t", MODEL, 10.0, 15.0)
        correction.observed("u", MODEL, 10.0, 10.0)
    assert correction.factor("t") == pytest.approx(1.5, rel=0.05)
    assert correction.factor("u") == pytest.approx(1.0, rel=0.05)
    model = correction.corrected("t", MODEL)
    assert (model.alpha_ms, model.beta_ms, model.gamma_ms) == pytest.approx((3.0, 0.15, 0.015), rel=0.05)


def test_the_p99_factor_is_as_profiled_until_batches_differ() -> None:
    correction = Correction()
    assert correction.corrected("t", MODEL).p99_factor == 1.3
    for _ in range(200):
        correction.observed("t", MODEL, 10.0, 10.0)
    assert correction.corrected("t", MODEL).p99_factor == pytest.approx(1.0, abs=0.01)


def test_the_p99_factor_follows_the_error_that_the_factor_leaves() -> None:
    correction = Correction()
    for i in range(400):  # ln 1.2 = 0.18 to either side of the factor, and a little more as that follows each
        correction.observed("t", MODEL, 1000.0, 1200.0 if i % 2 else 1000.0 / 1.2)
    assert math.exp(2.326 * 0.18) < correction.corrected("t", MODEL).p99_factor < math.exp(2.326 * 0.25)


def test_what_short_batches_vary_by_is_no_share_of_long_ones() -> None:
    short, long = Correction(), Correction()
    for i in range(400):
        short.observed("t", MODEL, SPREAD_MS, SPREAD_MS * (1.5 if i % 2 else 0.5))
        long.observed("t", MODEL, 1000.0, 1500.0 if i % 2 else 500.0)
    assert short.corrected("t", MODEL).p99_factor < 1.9 < long.corrected("t", MODEL).p99_factor


def test_one_batch_that_hangs_raises_the_p99_factor_by_a_bounded_step() -> None:
    correction = Correction()
    steady = LatencyModel(2.0, 0.1, 0.01, 1.0)
    correction.observed("t", steady, 10.0, 10_000.0)
    assert correction.corrected("t", steady).p99_factor == pytest.approx(math.exp(2.326 * 0.4 * 0.05**0.5))


def test_a_slow_spell_beyond_the_bound_is_corrected_back_at_once() -> None:
    correction = Correction()
    for _ in range(100):
        correction.observed("t", MODEL, 20.0, 2000.0)
    assert correction.factor("t") == pytest.approx(4.0)
    correction.observed("t", MODEL, 20.0, 20.0)
    assert correction.factor("t") < 4.0 * 0.95


def test_the_shortest_time_that_a_float_holds_moves_the_factor_by_one_step() -> None:
    correction = Correction()
    correction.observed("t", MODEL, 20.0, 5e-324)
    assert correction.factor("u") == pytest.approx(math.exp(-0.05))


def test_the_factor_and_the_overhead_are_bounded() -> None:
    slow, fast = Correction(), Correction()
    for _ in range(1000):
        slow.observed("t", MODEL, 10.0, 1000.0)
        fast.observed("t", MODEL, 1000.0, 1.0)
        slow.observed("t", MODEL, 0.5, 1000.0)
        fast.observed("t", MODEL, SHORT_MS - 0.01, 0.001)
    assert slow.factor("t") == pytest.approx(4.0)
    assert fast.factor("t") == pytest.approx(0.25)
    assert slow.overhead_ms == SHORT_MS
    assert fast.overhead_ms == pytest.approx(-SHORT_MS / 4, abs=0.01), "a factor of a quarter has the rest"


@pytest.mark.parametrize(("predicted", "measured"), [(0.0, 1.0), (1.0, 0.0), (1.0, math.nan), (1.0, math.inf)])
def test_times_that_are_not_positive_and_finite_are_ignored(predicted: float, measured: float) -> None:
    correction = Correction()
    correction.observed("t", MODEL, predicted, measured)
    assert correction.factor("t") == 1.0
    assert correction.corrected("t", MODEL) == MODEL


def test_the_correction_decays_while_the_device_is_idle() -> None:
    correction, model = Correction(), LatencyModel(20.0, 0.0, 0.0, p99_factor=1.1)
    for _ in range(100):  # fourfold, so that all requests may be refused
        correction.observed("t", model, 20.0, 80.0)
    slow = correction.factor("t")
    assert slow == pytest.approx(4.0, rel=0.02)
    correction.observed("t", model, 0.1, 1.0)
    overhead_ms = correction.overhead_ms
    assert overhead_ms > 0.0
    correction.rested(HALF_LIFE_S)
    assert correction.factor("t") == pytest.approx(slow**0.5, rel=1e-6)
    assert correction.overhead_ms == pytest.approx(overhead_ms / 2)
    for _ in range(10):
        correction.rested(HALF_LIFE_S)
    assert correction.factor("t") == pytest.approx(1.0, abs=0.01)
    assert correction.corrected("t", model).p99_factor == pytest.approx(1.1, abs=0.01)
