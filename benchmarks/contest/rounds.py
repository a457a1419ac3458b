"""Timing contenders in turn, so that whatever else the machine does meanwhile falls on all of them alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from benchmarks.contest.process import ContenderFailed


class Handle(Protocol):
    """A contender's process, or a stand-in."""

    def order(self, do: str, **arguments: Any) -> dict[str, Any]: ...


@dataclass
class Timed:
    """One contender's rounds: seconds of those that nobody disturbed, and of the others.

    idle_cpu_s: CPU time it took while it was others' turn, which should be none; others_cpu_s: what everyone else
    on the machine took while it was its own."""

    wanted: int = 1
    quiet_s: list[float] = field(default_factory=list)
    disturbed_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    idle_cpu_s: float = 0.0
    others_cpu_s: float = 0.0

    @property
    def undisturbed(self) -> bool:
        """Whether at least half of the rounds asked for were quiet; then the others do not count."""
        return 2 * len(self.quiet_s) >= self.wanted

    @property
    def seconds(self) -> list[float]:
        return self.quiet_s if self.undisturbed else self.quiet_s + self.disturbed_s

    @property
    def median_s(self) -> float:
        return median(self.seconds)

    def add(self, answer: dict[str, Any]) -> None:
        (self.disturbed_s if answer["disturbed"] else self.quiet_s).append(answer["seconds"])
        self.cpu_s += answer["cpu_s"]
        self.idle_cpu_s += answer["idle_cpu_s"]
        self.others_cpu_s += answer["others_cpu_s"]


def turns(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name): in each round everyone has one turn, and each round begins with another."""
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            yield number, name


def time_in_turn(
    handles: Mapping[str, Handle],
    rounds: int,
    most_rounds: int,
    first_request: int,
    on_turn: Callable[[int, str], None],
) -> tuple[dict[str, Timed], dict[str, str]]:
    """One scoring of all the pairs per contender and round, only one working at a time, until everyone has had
    `rounds` that nothing else on the machine disturbed, and at most `most_rounds`.

    The texts of round i are request `first_request` + i: new to everyone, so that nobody's cache of texts has
    them. Returns the times, and for those that failed the reason.
    """
    timed = {name: Timed(rounds) for name in handles}
    failed: dict[str, str] = {}
    for number, name in turns(list(handles), most_rounds):
        if name in failed or len(timed[name].quiet_s) >= rounds:
            continue
        on_turn(number, name)
        try:
            timed[name].add(handles[name].order("time", request=first_request + number))
        except ContenderFailed as error:
            failed[name] = str(error)
            del timed[name]
    return timed, failed
