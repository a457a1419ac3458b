"""What a model cannot score is refused before anything is computed."""

import numpy as np

from rankfleet.core.errors import InvalidPairs
from rankfleet.core.pairs import TokenizedPairs


def check_pairs(pairs: TokenizedPairs, vocabulary: int, max_pair: int) -> None:
    """Raises InvalidPairs, with the figures, for pairs that are not what `TokenizedPairs` describes or that this model
    does not take. vocabulary: rows of its embedding table; max_pair: tokens of its longest pair.

    Compiled kernels and CUDA graphs look ids and positions up unchecked: a wrong one reads foreign memory, or ends the
    process. So this is asked for every batch; 100 pairs of 154 tokens take less than 10 microseconds.
    """
    ids, lengths, seconds = pairs.ids, pairs.lengths, pairs.seconds
    for name, array in (("ids", ids), ("lengths", lengths), ("seconds", seconds)):
        if array.dtype != np.int32 or array.ndim != 1:
            raise InvalidPairs(f"{name} are {array.dtype} of shape {list(array.shape)}; they have to be int32 [n]")
    if len(seconds) != len(lengths):
        raise InvalidPairs(f"{len(lengths)} pairs have {len(seconds)} starts of documents")
    if (total := int(lengths.sum(dtype=np.int64))) != len(ids):
        raise InvalidPairs(f"the lengths of {len(lengths)} pairs add up to {total} tokens; there are {len(ids)} ids")
    if not len(lengths):
        return
    if (shortest := int(lengths.min())) < 1:
        raise InvalidPairs(f"a pair of {shortest} tokens has nothing to score, not even special tokens")
    if (longest := int(lengths.max())) > max_pair:
        raise InvalidPairs(f"a pair of {longest} tokens is longer than the {max_pair} that the model takes")
    # As unsigned numbers negative ones are the largest: one pass finds both.
    if int(ids.view(np.uint32).max()) >= vocabulary:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise InvalidPairs(
            f"token id {wrong} is outside of the vocabulary of {vocabulary}; is the tokenizer that of this model?"
        )
    if (outside := (seconds < 0) | (seconds > lengths)).any():
        row = int(outside.argmax())
        raise InvalidPairs(f"the document of pair {row} begins at token {seconds[row]}; the pair has {lengths[row]}")


def probe(vocabulary: int, max_pair: int) -> TokenizedPairs:
    """One pair of at most 16 tokens, spread over the vocabulary: large enough to show that a model computes at all."""
    length = min(16, max_pair)
    ids = np.linspace(0, vocabulary - 1, length, dtype=np.int32)
    return TokenizedPairs(ids, np.array([length], dtype=np.int32), np.array([length // 2], dtype=np.int32))
