"""Timing contenders in turn, so that other work on the machine affects all of them alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from benchmarks.contest.process import ContenderFailed


class Handle(Protocol):
    """A contender's process, or a fake one."""

    def order(self, do: str, **arguments: Any) -> dict[str, Any]: ...


@dataclass
class Timed:
    """One contender's rounds: seconds of the undisturbed ones, and of the disturbed ones.

    rounds: how many were asked for; idle_cpu_s: its CPU time during the turns of others, which should be 0;
    others_cpu_s: CPU time of all other processes during its own turns.
    """

    rounds: int = 1
    quiet_s: list[float] = field(default_factory=list)
    disturbed_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    idle_cpu_s: float = 0.0
    others_cpu_s: float = 0.0

    @property
    def undisturbed(self) -> bool:
        """Whether at least half of the rounds were undisturbed; then the disturbed ones do not count."""
        return 2 * len(self.quiet_s) >= self.rounds

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
    """(round, name): each contender has one turn in each round, and each round begins with the next contender."""
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            yield number, name


def time_in_turn(
    handles: Mapping[str, Handle],
    rounds: int,
    max_rounds: int,
    first_request: int,
    on_turn: Callable[[int, str], None],
) -> tuple[dict[str, Timed], dict[str, str]]:
    """Time the contenders in turn until each has `rounds` undisturbed rounds, and for at most `max_rounds`.

    A round is one scoring of all pairs; only one contender works at a time. Round i scores request `first_request` + i,
    which no contender has seen, so that no cache of texts helps. Returns the times, and the reasons of those that
    failed.
    """
    timed = {name: Timed(rounds) for name in handles}
    failed: dict[str, str] = {}
    for number, name in turns(list(handles), max_rounds):
        if name in failed or len(timed[name].quiet_s) >= rounds:
            continue
        on_turn(number, name)
        try:
            timed[name].add(handles[name].order("time", request=first_request + number))
        except ContenderFailed as error:
            failed[name] = str(error)
            del timed[name]
    return timed, failed
