"""Latency models of tiers on this device: timed batches, and the model fitted to them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankfleet.bench.results import measured
from rankfleet.core.errors import CheckpointError, ConfigError
from rankfleet.engine.runtime.measure import Shape, measure
from rankfleet.estimates.latency import Errors, LatencyModel, Sample, fit, held_out_errors
from rankfleet.estimates.profile import profile_json
from rankfleet.estimates.request_cost import RequestCost

if TYPE_CHECKING:  # benchmarks/gpu_suite.py profiles without a fleet file
    from rankfleet.core.config import FleetConfig
    from rankfleet.engine.runtime.scorer import Scorer

MIN_SAMPLES = 6  # below, too few sizes are left to fit after every third has been held out
MAX_TOKENS = 512  # of a pair, for tiers that set no limit of their own


@dataclass(frozen=True)
class TierProfile:
    """One tier on this device. errors: of the model on batch sizes that it was not fitted to."""

    model: LatencyModel
    errors: Errors
    samples: list[Sample]
    dtype: str


def profile_scorer(
    scorer: "Scorer",
    max_tokens: int | None,
    shapes: Iterable[Shape],
    repeats: int,
    max_s: float,
    progress: Callable[[], None] = lambda: None,
) -> TierProfile:
    """Time batches of these shapes, `repeats` times each, for at most `max_s` seconds, and fit a latency model.

    max_tokens: of a pair, None for the default; progress is called after each batch. Raises ConfigError where the time
    is not enough for MIN_SAMPLES batches.
    """
    samples = []
    for sample in measure(scorer, min(max_tokens or MAX_TOKENS, scorer.max_pair), shapes, repeats, max_s):
        samples.append(sample)
        progress()
    if len(samples) < MIN_SAMPLES:
        raise ConfigError(f"too slow to profile in {max_s:g} s; give more --seconds")
    return TierProfile(fit(samples), held_out_errors(samples), samples, scorer.dtype)


def profile_fleet(
    fleet: "FleetConfig",
    shapes: Iterable[Shape],
    repeats: int,
    max_s: float,
    progress: Callable[[str], None] = lambda tier: None,
) -> dict[str, TierProfile]:
    """Profile each tier of a fleet, with its group's precision and threads. max_s: seconds for each tier.

    Raises CheckpointError and ConfigError that name the tier.
    """
    import torch

    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
    from rankfleet.engine.runtime.scorer import Scorer

    profiles = {}
    shapes = list(shapes)
    for name, tier in fleet.tiers.items():
        group = fleet.groups[fleet.group_of(name)]
        torch.set_num_threads(group.threads)
        try:
            checkpoint = find_checkpoint(tier.model, tier.revision)
            check_checkpoint(checkpoint, group.dtype, tier.max_tokens)
            scorer = Scorer.load(checkpoint, group.dtype)
            profiles[name] = profile_scorer(
                scorer,
                tier.max_tokens,
                shapes,
                repeats,
                max_s,
                lambda name=name: progress(name),  # type: ignore[misc]
            )
        except (CheckpointError, ConfigError) as error:
            raise type(error)(f"tier {name}: {error}") from error
    return profiles


def profile_file(
    profiles: dict[str, TierProfile], fleet: "FleetConfig", cost: RequestCost | None = None
) -> dict[str, Any]:
    """The profile as `profile:` of a fleet file reads it. cost: of a request, None where it was not measured."""
    import torch

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = measured(machine) | {
        "threads": {name: fleet.groups[fleet.group_of(name)].threads for name in profiles},
        "dtype": {name: profile.dtype for name, profile in profiles.items()},
        "samples": {name: len(profile.samples) for name, profile in profiles.items()},
        "held_out_error": {name: profile.errors.to_json() for name, profile in profiles.items()},
    }
    return profile_json({name: profile.model for name, profile in profiles.items()}, about, cost)
