"""Scoring queries by several models, window after window, so that all have the same queries whenever it ends."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rankfleet.evaluate.candidates import Collection, ScoredCandidates
from rankfleet.evaluate.kept_scores import KeptScores, Question
from rankfleet.evaluate.rankers import Ranker
from rankfleet.evaluate.sampling import Ended, Pace, next_look


def score_questions(
    rankers: Sequence[Ranker],
    questions: Sequence[Question],
    kept: KeptScores,
    pace: Pace,
    progress: Callable[[int], object] = lambda pairs: None,
    enough: Callable[[int], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, Ended]:
    """(number of questions that all rankers have scored, from the first; why it ended). Scores are added to `kept`.

    progress: called with the number of pairs that were scored; enough: asked, at the looks of `next_look`, whether so
    many questions are enough. The first question is scored however long it takes.
    """
    done, scored, taken_s = 0, 0, 0.0
    while done < len(questions):
        while done < len(questions) and not any(kept.lacks(each.name, questions[done]) for each in rankers):
            done += 1  # by an earlier run
            if enough is not None and done == next_look(done - 1) and enough(done):
                return done, "enough"
        if (size := pace.next(scored, taken_s, clock())) == 0 and done < len(questions):
            return done, "time"
        window = questions[done : min(done + size, next_look(done))]
        started_s = clock()
        for ranker in rankers:
            missing = [each for each in window if kept.lacks(ranker.name, each)]
            for question, scores in zip(missing, ranker.score(missing) if missing else [], strict=True):
                kept.add(ranker.name, question, scores)
                progress(len(question.hits))
        taken_s, scored, done = taken_s + clock() - started_s, scored + len(window), done + len(window)
        if window and enough is not None and done == next_look(done - 1) and enough(done):
            return done, "enough"
    return done, "all"


def questions_of(collection: Collection) -> list[Question]:
    judged, found = collection.judged, collection.candidates
    return [Question(collection.name, query, text, found[query]) for query, text in judged.queries.items()]


def with_scores(
    collection: Collection,
    questions: Sequence[Question],
    kept: KeptScores,
    tiers: Sequence[str],
    against: Sequence[str],
) -> Collection:
    """The collection with these of its queries alone, and their scores, all of which were kept."""
    own = [each for each in questions if each.data == collection.name]
    whole = collection.only([each.query for each in own])

    def gathered(names: Sequence[str]) -> Mapping[str, ScoredCandidates]:
        return {name: gather(name, own, kept) for name in names}

    return replace(whole, scored=gathered(tiers), against=gathered(against))


def gather(name: str, questions: Sequence[Question], kept: KeptScores) -> ScoredCandidates:
    """One model's scores of these questions."""
    found = {each.query: kept.get(name, each) for each in questions if each.hits}
    parts = found.values()
    totals = {part: float(sum(getattr(each, part) for each in parts)) for part in ("seconds", "searches", "tokens")}
    times_ms = [each.seconds * 1e3 for each in parts if each.timed]
    return ScoredCandidates({query: each.scores for query, each in found.items()}, times_ms, **totals)
