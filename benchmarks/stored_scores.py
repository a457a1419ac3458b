"""Scores of tiers on judged collections, kept in files, so that what is fitted on them can be fitted again in seconds.

A file belongs to a collection, a tier's weights, a precision and the candidates; anything else is scored anew.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from rankfleet.core.fingerprint import fingerprint
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.evaluate import Collection, ScoredCandidates


def stored_or_scored(
    collections: list[Collection], models: Mapping[str, str], dtype: str, folder: Path
) -> list[Collection]:
    """The collections with the scores of these tiers. models: by tier. folder: of the files, made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    scored: list[dict[str, ScoredCandidates]] = [{} for _ in collections]
    for tier, model in models.items():
        checkpoint = find_checkpoint(model)
        reranker = None
        for own, collection in zip(scored, collections, strict=True):
            file = folder / f"{collection.name}_{tier}_{dtype}_{name_of(checkpoint, collection)}.npz"
            if not file.exists():
                print(f"scoring {collection.name} with {tier} in {dtype}", flush=True)
                reranker = reranker or Reranker.load(checkpoint, dtype)
                logits = {
                    query: reranker.score(collection.judged.queries[query], [hit.text for hit in hits])
                    for query, hits in collection.candidates.items()
                    if hits
                }
                np.savez(file.with_suffix(".part.npz"), **logits)
                file.with_suffix(".part.npz").rename(file)
            with np.load(file) as stored:
                own[tier] = ScoredCandidates(dict(stored))
    return [replace(collection, scored=own) for collection, own in zip(collections, scored, strict=True)]


def name_of(checkpoint: Checkpoint, collection: Collection) -> str:
    """The fingerprint of the weights and of the candidates."""
    weights = hashlib.sha256()
    for file in sorted(checkpoint.folder.rglob("*.safetensors")):
        weights.update(file.read_bytes())
    candidates = {query: [hit.id for hit in hits] for query, hits in collection.candidates.items()}
    return fingerprint(weights.hexdigest(), json.dumps(candidates))
