"""Teachers: whatever scores the documents of a query, here or on a server. Scores are raw logits."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rankfleet.clients.rankfleet import RankfleetServer
from rankfleet.core.appended import drop_half_line
from rankfleet.core.errors import RankfleetError
from rankfleet.distill.sources import Group

if TYPE_CHECKING:
    from rankfleet.engine.checkpoint.files import Checkpoint

DECIMALS = 5  # of stored scores


class Scores(Protocol):
    """Anything that scores documents for a query, such as `engine.runtime.scorer.Reranker`."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray: ...


class Teacher(Protocol):
    """Who scores. name: for people; identity: another one for another model."""

    name: str
    identity: str

    def load(self) -> Scores: ...


class LocalTeacher:
    """A checkpoint on this computer. dtype, max_tokens: as in `Reranker.load`."""

    def __init__(self, name: str, checkpoint: "Checkpoint", dtype: str = "auto", max_tokens: int | None = None) -> None:
        self.name = name
        self.identity = (
            f"{Path(name).name} with weights {checkpoint.weights_digest}, {dtype}, {max_tokens or 'all'} tokens"
        )
        self._checkpoint, self._dtype, self._max_tokens = checkpoint, dtype, max_tokens

    def load(self) -> Scores:
        from rankfleet.engine.runtime.scorer import Reranker

        return Reranker.load(self._checkpoint, self._dtype, max_tokens=self._max_tokens)


class ServerTeacher(RankfleetServer):
    """A tier of a Rankfleet server."""

    def load(self) -> Scores:
        return self


def score_groups(teacher: Scores, groups: Iterable[Group], path: Path, progress: Callable[[int], object]) -> None:
    """Write the teacher's scores of each group to `path`, one line for a group.

    Lines that are there are kept, and scoring goes on after them. progress: called with the number of groups done.
    Raises RankfleetError for a score that is not finite.
    """
    done = 0
    if path.exists():
        drop_half_line(path)
        done = path.read_bytes().count(b"\n")
    progress(done)
    with path.open("a", encoding="utf-8") as sink:
        for number, group in enumerate(groups):
            if number < done:
                continue
            scores = teacher.score(group.query, group.documents)
            if not np.isfinite(scores).all():
                raise RankfleetError(f"the teacher's scores of the query {group.query!r} are not finite")
            sink.write(json.dumps([round(float(score), DECIMALS) for score in scores]) + "\n")
            sink.flush()
            progress(number + 1)


def with_scores(groups: Iterable[Group], path: Path) -> Iterator[Group]:
    """The groups with the scores that `score_groups` wrote."""
    with path.open(encoding="utf-8") as lines:
        yield from (replace(group, scores=json.loads(line)) for group, line in zip(groups, lines, strict=True))
