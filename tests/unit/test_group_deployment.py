"""Before a tier takes traffic it has scored, in between the batches of others where there are any."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rankfleet.cluster.group_deployment import measured
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.runtime.measure import QUICK, WARM_UP_BATCHES
from tests.unit.fakes import fleet


class Counted:
    """Scores nothing, and counts the batches."""

    max_pair = 64

    def __init__(self) -> None:
        self.batches = 0

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.batches += 1
        return np.zeros(len(pairs), dtype=np.float32)


@pytest.mark.parametrize(("known", "samples"), [(False, 8 * len(QUICK)), (True, len(QUICK))])
async def test_a_tier_has_scored_before_traffic_comes(known: bool, samples: int) -> None:
    scorer = Counted()
    with ThreadPoolExecutor(1) as executor:
        taken = [sample async for sample in measured(fleet(), "small", scorer, executor, known)]  # type: ignore[arg-type]
    assert (len(taken), scorer.batches) == (samples, samples + WARM_UP_BATCHES)
