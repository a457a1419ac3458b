"""Validation of pairs before a model computes anything."""

import numpy as np

from rankfleet.core.errors import InvalidPairs
from rankfleet.core.pairs import TokenizedPairs


def check_pairs(pairs: TokenizedPairs, vocabulary: int, max_pair: int) -> None:
    """Raises InvalidPairs, with the figures, unless `pairs` is well formed and the model can score all of it.

    `vocabulary`: rows of the model's embedding table.
    `max_pair`: tokens of the longest pair it takes.

    Compiled kernels and CUDA graphs do not check indices: a wrong token id or position would read foreign memory or
    crash the process. Every batch is therefore checked; 100 pairs of 154 tokens take less than 10 microseconds.
    """
    ids, lengths, offsets = pairs.ids, pairs.lengths, pairs.document_offsets
    for name, array in (("ids", ids), ("lengths", lengths), ("document_offsets", offsets)):
        if array.dtype != np.int32 or array.ndim != 1:
            raise InvalidPairs(f"{name} are {array.dtype} of shape {list(array.shape)}; they have to be int32 [n]")
    if len(offsets) != len(lengths):
        raise InvalidPairs(f"{len(lengths)} pairs have {len(offsets)} document_offsets")
    if (total := int(lengths.sum(dtype=np.int64))) != len(ids):
        raise InvalidPairs(f"the lengths of {len(lengths)} pairs add up to {total} tokens; there are {len(ids)} ids")
    if not len(lengths):
        return
    if (shortest := int(lengths.min())) < 1:
        raise InvalidPairs(f"a pair of {shortest} tokens has nothing to score, not even special tokens")
    if (longest := int(lengths.max())) > max_pair:
        raise InvalidPairs(f"a pair of {longest} tokens is longer than the {max_pair} that the model takes")
    # Seen as unsigned numbers, negative ids are the largest: one pass finds both kinds.
    if int(ids.view(np.uint32).max()) >= vocabulary:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise InvalidPairs(
            f"token id {wrong} is outside of the vocabulary of {vocabulary}; is the tokenizer that of this model?"
        )
    if (outside := (offsets < 0) | (offsets > lengths)).any():
        row = int(outside.argmax())
        raise InvalidPairs(f"the document of pair {row} begins at token {offsets[row]}; the pair has {lengths[row]}")


def probe_pair(vocabulary: int, max_pair: int) -> TokenizedPairs:
    """One pair of at most 16 tokens spread over the vocabulary: enough to see whether a model's scores are finite."""
    length = min(16, max_pair)
    ids = np.linspace(0, vocabulary - 1, length, dtype=np.int32)
    return TokenizedPairs(ids, np.array([length], dtype=np.int32), np.array([length // 2], dtype=np.int32))
