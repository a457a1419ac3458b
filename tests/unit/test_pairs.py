import numpy as np
import pytest

from rankfleet.core.pairs import TokenizedPairs, split_rows


def test_take_keeps_each_pair_whole() -> None:
    pairs = TokenizedPairs(np.arange(6, dtype=np.int32), np.array([1, 2, 3]), np.array([0, 1, 2]))
    taken = pairs.take(np.array([2, 0]))
    assert taken.ids.tolist() == [3, 4, 5, 0]
    assert taken.lengths.tolist() == [3, 1]
    assert taken.document_offsets.tolist() == [2, 0]
    none = pairs.take(np.array([], dtype=np.int64))
    assert (none.tokens, none.ids.dtype, len(none)) == (0, np.int32, 0)


def test_join_is_the_inverse_of_take() -> None:
    pairs = TokenizedPairs(np.arange(6, dtype=np.int32), np.array([1, 2, 3]), np.array([0, 1, 2]))
    joined = TokenizedPairs.join([pairs.take(np.array([0])), pairs.take(np.array([1, 2]))])
    assert joined.ids.tolist() == pairs.ids.tolist()
    assert joined.lengths.tolist() == pairs.lengths.tolist()


def test_chunks_are_about_equal() -> None:
    lengths = np.array([100, 1, 1, 1, 97, 50, 50])
    chunks = split_rows(lengths, 100)
    assert [int(lengths[rows].sum()) for rows in chunks] == [100, 100, 100]
    assert sorted(int(r) for rows in chunks for r in rows) == list(range(7))


@pytest.mark.parametrize("max_tokens", [1, 7, 64, 1000])
def test_every_row_is_in_one_chunk_and_no_chunk_is_too_large(max_tokens: int) -> None:
    lengths = np.random.default_rng(3).integers(1, 60, 200)
    chunks = split_rows(lengths, max_tokens)
    assert sorted(int(r) for rows in chunks for r in rows) == list(range(200))
    assert all(lengths[rows].sum() <= max_tokens or len(rows) == 1 for rows in chunks)


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_the_number_of_chunks_is_as_asked_for(parts: int) -> None:
    lengths = np.random.default_rng(parts).integers(60, 300, 100)
    chunks = split_rows(lengths, 10**6, parts)
    loads = [int(lengths[rows].sum()) for rows in chunks]
    assert len(chunks) == parts
    assert max(loads) < 1.02 * sum(loads) / parts
    assert len(split_rows(lengths[:3], 10**6, 8)) == 3


def test_a_pair_above_the_limit_is_a_chunk_of_its_own() -> None:
    chunks = split_rows(np.array([500, 10, 10]), 100)
    assert [rows.tolist() for rows in chunks if 0 in rows] == [[0]]
