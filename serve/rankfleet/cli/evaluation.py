"""The scoring of `rankfleet evaluate`: tiers and whom they are compared with, with progress, kept scores and a time
limit."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rankfleet.cli import err
from rankfleet.core.config import FleetConfig
from rankfleet.core.cpus import usable_cpus

if TYPE_CHECKING:
    from rankfleet.evaluate import Collection
    from rankfleet.evaluate.against import Against
    from rankfleet.evaluate.kept_scores import KeptScores, Question
    from rankfleet.evaluate.rankers import Ranker
    from rankfleet.evaluate.sampling import Ended
    from rankfleet.recommend.choice import Choice
    from rankfleet.recommend.sample import Sample

SEED = 1  # of the order in which queries are drawn
WINDOW_S = 10.0
LOADING_WINDOW_S = 120.0  # where tiers are loaded for each window


@dataclass(frozen=True)
class Asked:
    """What is scored: these tiers and others. dtype, threads: None for those of a tier's group.

    minutes: None for all queries. max_loss: nDCG@10, what the queries are to tell of a tier within these minutes.
    """

    fleet: FleetConfig
    tiers: list[str]
    others: "list[Against]"
    dtype: str | None
    threads: int | None
    minutes: float | None
    max_loss: float


def score(
    collections: "list[Collection]", asked: Asked, json_file: Path | None
) -> "tuple[list[Collection], dict[str, Any], Sample | None]":
    """(the collections with scores; the conditions of the figures; what a sample tells, with a time limit).

    With a time limit, collections have only the queries that were scored. json_file: scores are kept beside it.
    """
    from rankfleet.evaluate.kept_scores import KeptScores
    from rankfleet.evaluate.rivals import rival_of
    from rankfleet.evaluate.sampling import in_turn
    from rankfleet.evaluate.scoring import questions_of, with_scores
    from rankfleet.evaluate.tiers import LoadedTiers
    from rankfleet.recommend.choice import LEVEL
    from rankfleet.recommend.sample import LOOK_LEVEL, Sample

    kept = KeptScores(kept_beside(json_file))
    questions = in_turn([questions_of(each) for each in collections], SEED if asked.minutes else None)

    def told(done: int, level: float) -> "Choice":
        return what_they_tell(collections, questions[:done], kept, asked, level)

    with ExitStack() as open:
        with err.status("loading"):
            loaded = LoadedTiers(asked.fleet, asked.tiers, asked.dtype, asked.threads, kept)
            others = [rival_of(each, asked.threads or usable_cpus(), os.environ, open) for each in asked.others]
        enough = None if asked.minutes is None else lambda done: not told(done, LOOK_LEVEL).untold
        done, ended = score_all([*loaded.rankers, *others], questions, kept, loaded.together, asked.minutes, enough)
    names = [each.name for each in asked.others]
    scored = [with_scores(each, questions[:done], kept, asked.tiers, names) for each in collections]
    conditions = {"threads": loaded.threads, "dtype": ", ".join(dict.fromkeys(loaded.dtypes.values()))}
    if asked.minutes is None:
        return scored, conditions, None
    choice = told(done, LOOK_LEVEL if ended == "enough" else LEVEL)
    return scored, conditions, Sample(done, len(questions), ended, asked.minutes, SEED, choice)


def kept_beside(json_file: Path | None) -> Path | None:
    """Where scores are kept: beside the figures."""
    return None if json_file is None else json_file.with_suffix(".scores.jsonl")


def score_all(
    rankers: "Sequence[Ranker]",
    questions: "Sequence[Question]",
    kept: "KeptScores",
    together: bool = True,
    minutes: float | None = None,
    enough: Callable[[int], bool] | None = None,
) -> "tuple[int, Ended]":
    """As `score_questions`, with progress. together: whether all tiers are in memory. minutes: None for no limit.

    Raises ConfigError where scores of other models or texts are kept.
    """
    from rankfleet.evaluate.sampling import Pace
    from rankfleet.evaluate.scoring import score_questions

    kept.check({each.name: each.identity for each in rankers}, questions)
    until_s = None if minutes is None else time.monotonic() + 60 * minutes
    pace = Pace(WINDOW_S if together else LOADING_WINDOW_S, until_s)
    pairs = sum(len(each.hits) for each in questions for ranker in rankers if kept.lacks(ranker.name, each))
    with progress_bar() as bar:
        task = bar.add_task(f"{len(questions)} queries by {', '.join(each.name for each in rankers)}", total=pairs)
        try:
            return score_questions(rankers, questions, kept, pace, lambda count: bar.advance(task, count), enough)
        except KeyboardInterrupt:
            if kept.path is not None:
                err.print(f"scores are kept in {kept.path}; the same command goes on from there", soft_wrap=True)
            raise


def what_they_tell(
    collections: "list[Collection]", questions: "list[Question]", kept: "KeptScores", asked: Asked, level: float
) -> "Choice":
    """Whether each tier is enough, by these questions, at this level of confidence."""
    from rankfleet.evaluate import values_of
    from rankfleet.evaluate.scoring import with_scores
    from rankfleet.recommend.choice import Goal
    from rankfleet.recommend.sample import tiers_told

    parts = [with_scores(each, questions, kept, asked.tiers, []) for each in collections]
    values = [values_of(part, None)["alone"] for part in parts if part.judged.queries]
    ms = {name: 1e3 * sum(part.scored[name].seconds for part in parts) for name in asked.tiers}
    by_tier = {name: [own[name] for own in values] for name in asked.tiers}
    return tiers_told(by_tier, ms, Goal(asked.max_loss, level=level))


def progress_bar() -> Progress:
    """Pairs that were scored of all, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pairs,"))
    return Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=err, transient=True)
