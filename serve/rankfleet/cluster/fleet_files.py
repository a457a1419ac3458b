"""What one version of a fleet needs on the disk of its routers."""

from pathlib import Path

from rankfleet.api.keys import KeyRing
from rankfleet.cluster.decision_file import check_folder
from rankfleet.cluster.event_hours import check_events
from rankfleet.core.config import FleetConfig
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import read_profile
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.router.tokenize import load_tokenizers, model_names


class FleetFiles:
    """Files to read, and folders for decisions and events. Raises what its parts raise."""

    def __init__(self, fleet: FleetConfig) -> None:
        self.tokenizers: dict[str, PairTokenizer] = load_tokenizers(fleet.tiers)
        self.models = model_names(fleet)
        self.profile: dict[str, LatencyModel] = read_profile(fleet.profile) if fleet.profile else {}
        self.index = Bm25Index.load(Path(fleet.search.index)) if fleet.search else None
        self.keys = KeyRing(fleet.keys, fleet.tenants) if fleet.keys else None
        if fleet.decision_log.folder:
            check_folder("decision_log.folder", fleet.decision_log.folder)
        check_events(fleet.events)
