"""Which queries are scored first, and when those that were are enough."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rankfleet.evaluate.kept_scores import Question

FIRST_LOOK = 20  # queries; then at twice as many each time
Ended = Literal["all", "enough", "time"]


def in_turn(collections: Sequence[Sequence[Question]], seed: int | None = None) -> list[Question]:
    """A query of each collection in turn, as collections count equally, until the larger ones are left.

    seed: of the order in which the queries of a collection are drawn; None for the order in which they are given.
    """
    drawn = [[*each] for each in collections]
    if seed is not None:
        for each in drawn:
            random.Random(seed).shuffle(each)
    longest = max(map(len, drawn), default=0)
    return [each[place] for place in range(longest) for each in drawn if place < len(each)]


def next_look(done: int) -> int:
    """The number of queries after which it is asked again whether they are enough: 20, 40, 80 and so on.

    Looks are few, because each is a chance to stop on luck.
    """
    look = FIRST_LOOK
    while look <= done:
        look *= 2
    return look


@dataclass(frozen=True)
class Pace:
    """How many queries are scored next. Queries that are scored together fill batches; a time limit and progress want
    them few.

    window_s: about how long they may take. until_s: when the time is up; None for never.
    """

    window_s: float = 10.0
    until_s: float | None = None

    def next(self, done: int, taken_s: float, now_s: float) -> int:
        """done, taken_s: the queries that were scored, and their time; 1 at first, then at most twice what was done.

        0 if not one more can be scored in the time that is left.
        """
        if done == 0:
            return 1
        each_s = taken_s / done
        if self.until_s is not None and now_s + each_s > self.until_s:
            return 0
        left_s = self.window_s if self.until_s is None else min(self.window_s, self.until_s - now_s)
        return max(1, min(2 * done, int(left_s / max(each_s, 1e-6))))
