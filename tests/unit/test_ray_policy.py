"""The simulator's copy of Ray's default policy, compared with Ray's own functions."""

import random
from types import SimpleNamespace

import pytest
from ray.serve.autoscaling_policy import _apply_delay_logic, _apply_scaling_factors, _core_replica_queue_length_policy
from ray.serve.config import AutoscalingConfig

from rankfleet.simulate.scaling import TICK_S, OngoingRequestsScaler


def test_the_settings_are_rays_defaults() -> None:
    ours, rays = OngoingRequestsScaler({}), AutoscalingConfig()
    assert (ours.target_ongoing, ours.look_back_s) == (rays.target_ongoing_requests, rays.look_back_period_s)
    assert (ours.upscale_delay_s, ours.downscale_delay_s) == (rays.upscale_delay_s, rays.downscale_delay_s)


@pytest.mark.parametrize("seed", range(10))
def test_it_decides_as_ray_does(seed: int) -> None:
    rng = random.Random(seed)
    config = AutoscalingConfig(min_replicas=1, max_replicas=9, downscale_delay_s=60)
    ours = OngoingRequestsScaler({"g": (1, 9)}, downscale_delay_s=60)
    target, state, ongoing, changed = 2, {}, 4.0, 0
    for tick in range(20_000):
        if rng.random() < 0.002:
            ongoing = rng.uniform(0, 25)
        running = max(1, target - rng.randrange(2))
        context = SimpleNamespace(current_num_replicas=running, total_num_requests=ongoing, config=config)
        raw, _ = _core_replica_queue_length_policy(context)  # type: ignore[arg-type]
        desired = _apply_scaling_factors(raw, running, config)
        theirs, state = _apply_delay_logic(max(0, desired), target, config, state, _now=tick * TICK_S)
        theirs = max(1, min(9, theirs))
        assert ours.decide("g", ongoing, running, target, tick * TICK_S) == theirs
        changed += theirs != target
        target = theirs
    assert changed > 5
