"""Latency models: the formula, the fit, its errors, and profiles."""

import json
from pathlib import Path

import numpy as np
import pytest

from rankfleet.core.errors import ConfigError
from rankfleet.core.work import Work
from rankfleet.estimates.latency import SPREAD_MS, LatencyModel, Sample, fit, held_out_errors
from rankfleet.estimates.profile import profile_json, read_dtypes, read_profile


def work(tokens: int, squares: int = 0) -> Work:
    return Work(1, tokens, squares)


def test_the_fit_recovers_an_exact_model() -> None:
    law = LatencyModel(2.0, 0.01, 0.0001)
    samples = [Sample(w, law.mean_ms(w)) for w in (work(10, 100), work(100, 2500), work(1000, 90000), work(50, 2500))]
    found = fit(samples)
    assert found.alpha_ms == pytest.approx(2.0, rel=1e-6)
    assert found.beta_ms == pytest.approx(0.01, rel=1e-6)
    assert found.gamma_ms == pytest.approx(0.0001, rel=1e-6)
    assert found.p99_factor == pytest.approx(1.0)


def test_time_is_a_linear_formula_of_tokens_and_squares() -> None:
    # 2 + 0.01·300 + 0.0001·50000 = 2 + 3 + 5
    assert LatencyModel(2.0, 0.01, 0.0001).mean_ms(work(300, 50000)) == pytest.approx(10.0)
    assert LatencyModel(2.0, 0.01, 0.0001, 1.5).p99_ms(work(300, 50000)) == pytest.approx(15.0 + 0.5 * SPREAD_MS)


def test_what_short_batches_vary_by_is_no_share_of_long_ones() -> None:
    # Batches of 10 to 100 ms take 3 ms more or less than that: 30% of the shortest.
    found = fit([Sample(work(t), t + 3 * (-1) ** i) for t in range(10, 110, 10) for i in range(40)])
    assert found.p99_ms(work(10)) == pytest.approx(13.0)
    assert found.p99_ms(work(100)) < 117.0


def test_a_noisy_fit_has_no_negative_coefficient_and_the_p99_of_the_noise() -> None:
    rng = np.random.default_rng(5)
    samples = [Sample(work(t, t), (1 + 0.02 * t) * rng.lognormal(0, 0.1)) for t in rng.integers(10, 2000, 200).tolist()]
    found = fit(samples)
    assert min(found.alpha_ms, found.beta_ms, found.gamma_ms) >= 0
    # The 99th percentile of a lognormal with sigma 0.1 is exp(0.233) = 1.26 of its median.
    assert 1.15 < found.p99_factor < 1.4


@pytest.mark.parametrize(("batch_tokens", "amortized_ms"), [(1200, 11.25), (300, 15.0), (100, 15.0)])
def test_a_chunk_costs_its_own_time_and_a_share_of_the_fixed_time(batch_tokens: int, amortized_ms: float) -> None:
    # 2 ms for the batch and 8 for the chunk at the mean, a quarter more at the 99th percentile, and a quarter of 10 ms
    # for the batch. A quarter of a full batch pays a quarter of the 5 ms; a chunk above the size of a batch pays them
    # once.
    cost = LatencyModel(2.0, 0.01, 0.0001, 1.25).cost(work(300, 50000), batch_tokens)
    assert cost == pytest.approx((5.0, 10.0, amortized_ms, 10.0, 8.0 + 2.0 * min(1.0, 300 / batch_tokens)))


def test_a_fit_needs_three_samples() -> None:
    with pytest.raises(ValueError, match="at least 3 samples, got 2"):
        fit([Sample(work(1), 1.0)] * 2)


def test_a_profile_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile_json({"small": LatencyModel(1, 2, 3, 4)}, {"device": "test"})))
    assert read_profile(path) == {"small": LatencyModel(1, 2, 3, 4)}
    assert read_dtypes(path) == {}


IMPOSSIBLE = '{"tiers": {"small": {"alpha_ms": 1, "beta_ms": 1, "gamma_ms": 1, "p99_factor": 0}}}'


@pytest.mark.parametrize("text", ["", "[]", '{"tiers": 3}', '{"tiers": {"small": {"alpha_ms": 1}}}', IMPOSSIBLE])
def test_a_file_that_is_not_a_profile_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"profile\.json"):
        read_profile(path)
    with pytest.raises(ConfigError, match="rankfleet profile"):
        read_profile(tmp_path / "none.json")


def test_errors_are_measured_on_sizes_that_were_held_out() -> None:
    # Held out are the 1st and the 4th size. The others follow 10 ms and 1 a token, which predicts 20 and 50.
    measured = {10: (25.0, 25.0, 50.0), 20: (30.0,) * 3, 30: (40.0,) * 3, 40: (50.0,) * 3}
    samples = [Sample(work(tokens), ms[i]) for i in range(3) for tokens, ms in measured.items()]
    errors = held_out_errors(samples)
    assert errors.p50 == pytest.approx(0.1)  # half of 5 ÷ 25 and 0
    assert errors.p99 == pytest.approx(0.198)
    # One batch of twelve took twice its size's median; between the 11th and it the quantile is drawn straight.
    assert errors.spread == pytest.approx(0.89)


def test_errors_below_a_millisecond_are_relative_to_a_millisecond() -> None:
    samples = [Sample(work(tokens), ms) for tokens, ms in ((10, 0.3), (20, 0.2), (30, 0.3), (40, 0.4))]
    errors = held_out_errors([*samples, *samples])
    assert errors.p99 == pytest.approx(0.2 * 0.99, abs=0.01)  # 0.1 predicted, 0.3 measured; the other is right


def test_two_slow_batches_while_a_machine_starts_do_not_raise_the_p99() -> None:
    law = LatencyModel(2.0, 0.01, 0.0)
    samples = [Sample(work(tokens), law.mean_ms(work(tokens))) for tokens in (10, 100, 500, 1000, 2000)] * 4
    samples[3] = Sample(samples[3].work, 80.0)
    samples[7] = Sample(samples[7].work, 50.0)
    found = fit(samples)
    assert (found.alpha_ms, found.beta_ms) == pytest.approx((2.0, 0.01))
    assert found.p99_factor == pytest.approx(1.0)
