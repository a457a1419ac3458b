"""Scores of the demo tiers on judged collections, kept on disk: only a tier that has changed is scored again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rankfleet.cli.evaluation import score_all
from rankfleet.cli.options import load_config
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.evaluate import Collection
from rankfleet.evaluate.kept_scores import KeptScores
from rankfleet.evaluate.sampling import in_turn
from rankfleet.evaluate.scoring import questions_of, with_scores
from rankfleet.evaluate.tiers import LoadedTiers

SCORES = Path.home() / ".cache/rankfleet/scores"


def scored(read: Sequence[Collection], dtype: str, folder: Path, threads: int) -> list[Collection]:
    """The collections with the scores of the demo tiers, as `rankfleet evaluate` makes and keeps them.

    folder: has a file for the weights of each tier; delete it after the engine's kernels have changed
    """
    fleet, questions = load_config("demo"), in_turn([questions_of(each) for each in read])
    collections = [replace(each, scored={}) for each in read]
    for tier in fleet.tiers:
        weights = find_checkpoint(fleet.tiers[tier].model).weights_digest
        kept = KeptScores(folder / f"{tier}_{dtype}_{weights}.jsonl")
        score_all(LoadedTiers(fleet, [tier], dtype, threads, kept).rankers, questions, kept)
        found = [with_scores(each, questions, kept, [tier], []).scored for each in read]
        collections = [
            replace(each, scored={**each.scored, **own}) for each, own in zip(collections, found, strict=True)
        ]
    return collections
