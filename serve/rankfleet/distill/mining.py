"""Mining: which documents of a corpus a query is trained with.

As in the training data of the Ettin rerankers, half of a query's candidates come from the head of the teacher's ranking
(known positives and the hardest others), half from a band further down.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from rankfleet.distill.questions import Query
from rankfleet.distill.sources import Group
from rankfleet.retrieval.bm25 import Bm25Index

HARDEST = 32  # documents from the head of the teacher's ranking, besides the positives
BAND = 32  # documents drawn from the ranking below these
ROUND_TRIP = 10  # a made query is kept if the teacher ranks a document that it was made of among its first


def candidates(
    index: Bm25Index, queries: Iterable[Query], texts: Mapping[str, str], top_k: int
) -> Iterator[Group | None]:
    """For each query its positives and BM25's first `top_k`; None for one that no document shares a word with.

    texts: of the documents, by id.
    """
    for query in queries:
        hits = index.search(query.text, top_k)
        if not hits:
            yield None
            continue
        positives = [texts[name] if text is None else text for name, text in query.positives.items()]
        others = [hit.text for hit in hits if hit.id not in query.positives]
        # Queries made of one document are held back together.
        key = " ".join(query.positives) if query.made else query.text
        yield Group(query.text, (*positives, *others), key, tuple(range(len(positives))), query.made)


def select(group: Group, margin: float, seed: int) -> Group | None:
    """The documents to train on, by the teacher's scores: positives, hardest, and some of the band below.

    Dropped as false negatives: documents that the teacher scores above the best positive minus `margin`. None for a
    made query that the teacher does not trace back to its document (`ROUND_TRIP`), as in Promptagator
    (https://arxiv.org/abs/2209.11755).
    """
    scores = np.array(group.scores)
    known = set(group.positives)
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    if group.made and not known & set(order[:ROUND_TRIP]):
        return None
    others = [i for i in order if i not in known]
    if known:
        ceiling = max(scores[i] for i in known) - margin
        others = [i for i in others if scores[i] <= ceiling]
    below = others[HARDEST:]
    band = random.Random(f"{seed} {group.query}").sample(below, min(BAND, len(below)))
    kept = [*group.positives, *others[:HARDEST], *sorted(band)]
    return replace(
        group,
        documents=[group.documents[i] for i in kept],
        positives=tuple(range(len(known))),
        scores=[float(scores[i]) for i in kept],
    )
