"""How a large request is cut."""

import numpy as np
import pytest

from rankfleet.router.dispatch import slices_of


@pytest.mark.parametrize(
    ("pairs", "replicas", "chunks"),
    [
        (100, 4, 1),  # 3,200 tokens: not worth cutting
        (128, 4, 2),  # 4,096: two of 2,048
        (1000, 2, 2),  # 32,000: one each
        (1000, 3, 3),
        (1100, 2, 4),  # 35,200: three batches, but then one replica has two of them
        (1000, 1, 2),
    ],
)
def test_every_replica_gets_the_same_number_of_chunks(pairs: int, replicas: int, chunks: int) -> None:
    slices = slices_of(np.full(pairs, 32), 16384, replicas)
    assert len(slices) == chunks
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
    assert sorted(np.concatenate(slices).tolist()) == list(range(pairs))
