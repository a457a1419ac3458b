"""Timing contenders in turn, so that whatever else the machine does meanwhile falls on all of them alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from rankfleet.bench.process import ContenderFailed


class Handle(Protocol):
    """A contender's process, or a stand-in."""

    def order(self, do: str, **arguments: Any) -> dict[str, Any]: ...


@dataclass
class Timed:
    """One contender's rounds. idle_cpu_s: CPU time it took while it was others' turn, which should be none;
    others_cpu_s: what everyone else on the machine took while it was this one's."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    idle_cpu_s: float = 0.0
    others_cpu_s: float = 0.0

    @property
    def median_s(self) -> float:
        return median(self.seconds)


def turns(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name): in each round everyone has one turn, and each round begins with another."""
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            yield number, name


def time_in_turn(
    handles: Mapping[str, Handle],
    rounds: int,
    first_request: int,
    busy_s: Callable[[], float],
    on_turn: Callable[[int, str], None],
) -> tuple[dict[str, Timed], dict[str, str]]:
    """One scoring of all the pairs per contender and round, only one working at a time.

    The texts of round i are request `first_request` + i: new to everyone, so that nobody's cache of texts has
    them. busy_s: CPU seconds used on the machine so far. Returns the times, and for those that failed the reason.
    """
    timed = {name: Timed() for name in handles}
    failed: dict[str, str] = {}
    for number, name in turns(list(handles), rounds):
        if name in failed:
            continue
        on_turn(number, name)
        before = busy_s()
        try:
            answer = handles[name].order("time", request=first_request + number)
        except ContenderFailed as error:
            failed[name] = str(error)
            del timed[name]
            continue
        own = timed[name]
        own.others_cpu_s += max(0.0, busy_s() - before - answer["cpu_s"])
        own.seconds.append(answer["seconds"])
        own.cpu_s += answer["cpu_s"]
        own.idle_cpu_s += answer["idle_cpu_s"]
    return timed, failed
