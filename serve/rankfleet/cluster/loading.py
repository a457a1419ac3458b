"""A tier's model in a replica: its fingerprint, the loaded model, and its measured latency."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from rankfleet.cluster.shared_precision import Share, share_in_cluster
from rankfleet.core.config import FleetConfig
from rankfleet.core.fingerprint import fingerprint, model_name
from rankfleet.estimates.latency import LatencyModel, Sample
from rankfleet.estimates.precision import Precision
from rankfleet.estimates.profile import read_dtypes, read_profile

if TYPE_CHECKING:
    from rankfleet.engine.runtime.scorer import Scorer

# Batches of each size are timed thrice, so that the median leaves out one that was disturbed. Five times did not lower
# the error of the fit, and made the demo fleet start a second later.
REPEATS = 3
MAX_MEASURE_S = 5.0  # for one tier, before it takes traffic

log = logging.getLogger("ray.serve")


def model_fingerprint(fleet: FleetConfig, tier: str) -> str:
    """The fingerprint of a tier's model. Raises CheckpointError."""
    from rankfleet.engine.checkpoint.files import find_checkpoint

    settings = fleet.tiers[tier]
    checkpoint = find_checkpoint(settings.model, settings.revision)
    return model_name(tier, settings, fleet.groups[fleet.group_of(tier)].dtype, checkpoint.description)


def check_room(fleet: FleetConfig, group: str, tiers: Sequence[str]) -> None:
    """Raises CheckpointError, with the arithmetic, if a replica of this group has no memory for these of its tiers."""
    from rankfleet.cluster.memory_fit import check_replica

    check_replica(fleet, group, tiers)


def load_model(fleet: FleetConfig, tier: str, share: Share = share_in_cluster) -> "tuple[str, Scorer, str, Precision]":
    """Fingerprint of a tier's model, the model, the fingerprint of its weights, and its precision.

    `share`: makes the choice of a precision that of the whole group. Raises CheckpointError, also where this device
    cannot compute in the group's precision.
    """
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.scorer import Scorer

    settings, group = fleet.tiers[tier], fleet.group_of(tier)
    name = model_fingerprint(fleet, tier)
    checkpoint = find_checkpoint(settings.model, settings.revision)
    precision = share(group, name, lambda: Scorer.choose(checkpoint, fleet.groups[group].dtype))
    log.info("tier %s computes in %s: %s", tier, precision.dtype, precision.reason)
    scorer = Scorer.load(checkpoint, precision.dtype)
    return name, scorer, fingerprint(name, checkpoint.weights_digest, precision.dtype), precision


def profiled_latency(fleet: FleetConfig, tier: str, dtype: str) -> LatencyModel | None:
    """What the fleet's profile says of a tier; None if it says nothing, or was measured in another precision."""
    if fleet.profile is None or tier not in (models := read_profile(fleet.profile)):
        return None
    if (measured := read_dtypes(fleet.profile).get(tier, dtype)) != dtype:
        log.warning("tier %s computes in %s; its profile is of %s and is not used", tier, dtype, measured)
        return None
    return models[tier]


async def measure_model(
    fleet: FleetConfig, tier: str, scorer: "Scorer", executor: Executor, is_profiled: bool
) -> AsyncIterator[Sample]:
    """Timed batches of a tier, run between the batches of others.

    `is_profiled`: its latency is known from a profile, so that a few batches suffice to warm it up.
    """
    from rankfleet.engine.runtime.measure import QUICK, measure

    repeats, max_s = (1, 1.0) if is_profiled else (REPEATS, MAX_MEASURE_S)
    longest = min(fleet.tiers[tier].max_tokens or 512, scorer.max_pair)
    samples = measure(scorer, longest, QUICK, repeats, max_s)
    loop = asyncio.get_running_loop()
    while (sample := await loop.run_in_executor(executor, next, samples, None)) is not None:
        yield sample
