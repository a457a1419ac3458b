"""Held-back queries: which are kept out of training, and how well a student ranks them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from rankfleet.distill.sources import Group

# Queries. Fewer than the first say little; 20 measurements of more than the last take longer than training on a CPU.
MIN_HELD_BACK, MAX_HELD_BACK = 20, 200
CUT = 10


def place(key: str) -> float:
    """Where a key falls in [0, 1), by a hash of it alone: the same in any data and for any seed."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def held_back_keys(keys: Iterable[str], share: float) -> frozenset[str]:
    """The keys that fall below `share`, those with the lowest hashes first: at most MAX_HELD_BACK, and at least
    MIN_HELD_BACK as far as they are a fifth of all. None if `share` is 0."""
    ordered = sorted(set(keys), key=place)
    if not share:
        return frozenset()
    least = max(1, min(MIN_HELD_BACK, len(ordered) // 5))
    return frozenset(ordered[: min(MAX_HELD_BACK, max(least, sum(place(key) < share for key in ordered)))])


def merged(groups: Iterable[Group]) -> list[Group]:
    """Groups with one query as one, without those in which all documents have the same score: any order of these is
    as good as any other."""
    by_query: dict[str, Group] = {}
    for group in groups:
        first = by_query.get(group.query)
        by_query[group.query] = group if first is None else joined(first, group)
    return [group for group in by_query.values() if len(set(group.scores or ())) > 1]


def joined(first: Group, second: Group) -> Group:
    return replace(
        first, documents=[*first.documents, *second.documents], scores=[*(first.scores or ()), *(second.scores or ())]
    )


def ndcg(groups: Sequence[Group], scores: Sequence[np.ndarray]) -> float:
    """Mean nDCG@10 of a student's scores, with the teacher's as graded truth.

    A document's gain is its teacher score minus the lowest of its query, so that relevance labels of 0 and 1 give the
    usual nDCG. The teacher, not the known positives, is the truth: every source has its scores, a query's one positive
    says nothing about the nine other places, and documents that nobody judged would count as mistakes.
    """
    from sklearn.metrics import ndcg_score

    truths = [np.array(group.scores) - min(group.scores or (0.0,)) for group in groups]
    return float(np.mean([ndcg_score([t], [s], k=CUT) for t, s in zip(truths, scores, strict=True)]))


def since_best(values: Sequence[float]) -> int:
    """How many measurements have passed since the best, the first of equals."""
    return len(values) - 1 - values.index(max(values)) if values else 0
