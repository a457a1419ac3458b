"""The files besides models that a fleet file names. Reading them needs no PyTorch."""

from pathlib import Path

from rankfleet.api.keys import KeyRing
from rankfleet.core.config import FleetConfig
from rankfleet.estimates.profile import read_profile
from rankfleet.estimates.quality import fleet_quality
from rankfleet.retrieval.bm25 import Bm25Index


def check_named_files(config: FleetConfig) -> None:
    """Raises what is wrong with the quality table, the profile, the index or the API keys."""
    fleet_quality(config)
    if config.profile:
        read_profile(config.profile)
    if config.search:
        Bm25Index.load(Path(config.search.index))
    if config.keys:
        KeyRing(config.keys, config.tenants).check_tenants()
