"""Whether the queries that were scored so far tell which tiers are enough, and that in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfleet.recommend.choice import Choice, Goal, Option, choose

# At each of the few looks: 1% of wrong verdicts at one look in five is 5% over all of them.
LOOK_LEVEL = 0.99


def tiers_told(values: Mapping[str, Sequence[np.ndarray]], ms: Mapping[str, float], goal: Goal) -> Choice:
    """The tiers alone, measured by the goal. values: by tier and collection, float [queries]; ms: by tier."""
    quality = {tier: float(np.mean([own.mean() for own in each])) for tier, each in values.items()}
    return choose([Option(((tier, None),), quality[tier], ms[tier], None, each) for tier, each in values.items()], goal)


@dataclass(frozen=True)
class Sample:
    """The queries that were scored of those there are, why it ended, and what they tell.

    ended: as in `evaluate.sampling.Ended`. minutes: the time limit; seed: of the order in which queries were drawn.
    """

    queries: int
    of: int
    ended: str
    minutes: float
    seed: int
    choice: Choice

    def to_json(self) -> dict[str, Any]:
        untold = {each.option.name: each.queries for each in self.choice.untold}
        asked = {"queries": self.queries, "of": self.of, "minutes": self.minutes, "seed": self.seed}
        return asked | {"ended": self.ended, "max_loss": self.choice.goal.max_loss, "cannot_tell": untold}

    def __str__(self) -> str:
        best, lost = self.choice.best.name, self.choice.goal.max_loss
        question = f"whether it loses more than {lost:g} nDCG@10 against the best, {best}"
        how = {
            "all": f"All {self.of} queries were scored",
            "enough": f"{self.queries} of {self.of} queries were enough, and scoring ended there",
            "time": f"{self.queries} of {self.of} queries were scored in {self.minutes:g} minutes",
        }[self.ended]
        if not self.choice.untold:
            return f"{how}: of every tier they tell {question}."
        tiers = ", ".join(each.option.name for each in self.choice.untold)
        needed = [each.queries for each in self.choice.untold]
        more = "more than anybody judges" if None in needed else f"about {max(each or 0 for each in needed):,}"
        return f"{how}: of {tiers} they cannot tell {question}; {more} queries would."
