"""What a model cannot score is refused, with the figures, before anything is computed."""

import re

import numpy as np
import pytest

from rankfleet.core.errors import InvalidPairs
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.runtime.pair_checks import check_pairs, probe_pair

VOCABULARY, MAX_PAIR = 50368, 8


def pairs_of(ids: list[int], lengths: list[int], offsets: list[int]) -> TokenizedPairs:
    return TokenizedPairs(*(np.array(part, dtype=np.int32) for part in (ids, lengths, offsets)))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (([5, 50368, 6], [3], [1]), "token id 50368 is outside of the vocabulary of 50368; is the tokenizer that of"),
        (([5, 2**31 - 1, 6], [3], [1]), "token id 2147483647 is outside"),
        (([5, 6, -1], [1, 2], [1, 1]), "token id -1 is outside of the vocabulary of 50368"),
        (([5, 60000, -1], [3], [1]), "token id -1 is outside"),
        (([5, 6, 7], [2], [1]), "the lengths of 1 pairs add up to 2 tokens; there are 3 ids"),
        (([5, 6, 7], [2, 2], [1, 1]), "the lengths of 2 pairs add up to 4 tokens; there are 3 ids"),
        (([5], [2**31 - 1, 2**31 - 1, 3], [1, 1, 1]), "add up to 4294967297 tokens; there are 1 ids"),
        (([5, 6, 7], [3, 0], [1, 0]), "a pair of 0 tokens has nothing to score"),
        (([5, 6, 7], [4, -1], [1, 0]), "a pair of -1 tokens"),
        (([5] * 9, [9], [1]), "a pair of 9 tokens is longer than the 8 that the model takes"),
        (([5, 6, 7], [1, 2], [1]), "2 pairs have 1 document_offsets"),
        (([5, 6, 7], [1, 2], [1, -1]), "the document of pair 1 begins at token -1; the pair has 2"),
        (([5, 6, 7], [1, 2], [2, 2]), "the document of pair 0 begins at token 2; the pair has 1"),
        (([], [], [1]), "0 pairs have 1 document_offsets"),
    ],
)
def test_pairs_outside_of_the_model_are_refused_with_their_figures(pairs: tuple[list[int], ...], message: str) -> None:
    with pytest.raises(InvalidPairs, match=re.escape(message)):
        check_pairs(pairs_of(*pairs), VOCABULARY, MAX_PAIR)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("ids", np.array([5, 2**32 + 6, 7]), "ids are int64 of shape [3]; they have to be int32 [n]"),
        ("ids", np.array([[5, 6, 7]], np.int32), "ids are int32 of shape [1, 3]"),
        ("lengths", np.array([3.0], np.float32), "lengths are float32 of shape [1]"),
        ("document_offsets", np.array(1, np.int32), "document_offsets are int32 of shape []"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(name: str, array: np.ndarray, message: str) -> None:
    parts = {"ids": [5, 6, 7], "lengths": [3], "document_offsets": [1]}
    arrays = {part: np.array(values, dtype=np.int32) for part, values in parts.items()} | {name: array}
    with pytest.raises(InvalidPairs, match=re.escape(message)):
        check_pairs(TokenizedPairs(**arrays), VOCABULARY, MAX_PAIR)


@pytest.mark.parametrize(
    "pairs",
    [
        ([], [], []),
        ([0], [1], [0]),
        ([50367] * 8, [8], [8]),  # an empty document may begin where its pair ends
        ([1, 2, 3, 4], [1, 3], [0, 2]),
    ],
)
def test_pairs_up_to_the_limits_are_accepted(pairs: tuple[list[int], ...]) -> None:
    check_pairs(pairs_of(*pairs), VOCABULARY, MAX_PAIR)


def test_a_strided_slice_is_accepted() -> None:
    ids = np.array([5, -1, 6, -1, 7, -1], dtype=np.int32)
    check_pairs(TokenizedPairs(ids[::2], np.array([3], np.int32), np.array([1], np.int32)), VOCABULARY, MAX_PAIR)


def test_the_probe_pair_is_spread_over_the_vocabulary_and_fits() -> None:
    pairs = probe_pair(vocabulary=31, max_pair=512)
    assert pairs.ids.tolist() == list(range(0, 31, 2))
    assert (pairs.lengths.tolist(), pairs.document_offsets.tolist()) == ([16], [8])
    for vocabulary, max_pair in ((1, 512), (1000, 1), (31, 512)):
        check_pairs(probe_pair(vocabulary, max_pair), vocabulary, max_pair)
