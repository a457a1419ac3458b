import math

import pytest

from rankfleet.routing.correction import MOST_FACTOR, Correction
from rankfleet.routing.latency import LatencyModel


def test_one_batch_moves_a_prediction_a_little() -> None:
    correction = Correction()
    correction.observed("t", 10.0, 12.0)
    assert correction.factor("t") == pytest.approx(1.2**0.05)


def test_one_batch_that_hangs_moves_it_by_two_percent() -> None:
    correction = Correction()
    correction.observed("t", 10.0, 10_000.0)
    assert correction.factor("t") == pytest.approx(math.exp(0.02))


def test_many_batches_are_followed() -> None:
    correction = Correction()
    for _ in range(300):
        correction.observed("t", 10.0, 15.0)
    assert correction.factor("t") == pytest.approx(1.5, rel=1e-3)
    assert correction.factor("u") == 1.0
    model = correction.corrected("t", LatencyModel(2.0, 0.1, 0.01, 1.3))
    assert (model.alpha_ms, model.beta_ms, model.gamma_ms) == pytest.approx((3.0, 0.15, 0.015), rel=1e-3)
    assert model.p99_factor == 1.3


def test_another_device_is_not_followed_for_ever() -> None:
    correction = Correction()
    for _ in range(1000):
        correction.observed("t", 10.0, 1000.0)
        correction.observed("u", 10.0, 0.1)
    assert correction.factor("t") == pytest.approx(MOST_FACTOR)
    assert correction.factor("u") == pytest.approx(1 / MOST_FACTOR)


@pytest.mark.parametrize(("predicted", "measured"), [(0.0, 1.0), (1.0, 0.0), (1.0, math.nan), (1.0, math.inf)])
def test_nonsense_is_ignored(predicted: float, measured: float) -> None:
    correction = Correction()
    correction.observed("t", predicted, measured)
    assert correction.factor("t") == 1.0
