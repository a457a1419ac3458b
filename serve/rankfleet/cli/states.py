"""What a long command waits for, on a terminal: one line with times that grow."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text


@dataclass
class Part:
    """What one part of a command does, since when, and when it was done; both in seconds."""

    state: str
    since_s: float
    done_s: float | None = None


class States:
    """The line that `rich` draws again and again: `ray 2.1 s · router 3.4 s · group demo: loading, 4.0 s`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts: dict[str, Part] = {}

    def say(self, text: str) -> None:
        """What is waited for now: `PART: STATE`, several with ` · ` between them, or a state alone. A part that is no
        longer named is done and keeps its time; a state alone is forgotten."""
        now_s = self._clock()
        named = {state.partition(": ")[0]: state for state in text.split(" · ")}
        self._parts = {name: part for name, part in self._parts.items() if name in named or part.state != name}
        for name, part in self._parts.items():
            if name not in named and part.done_s is None:
                part.done_s = now_s
        for name, state in named.items():
            part = self._parts.setdefault(name, Part(state, now_s))
            part.state, part.done_s = state, None

    def __rich__(self) -> Text:
        now_s = self._clock()
        return Text(" · ".join(shown(name, part, now_s) for name, part in self._parts.items()))


def shown(name: str, part: Part, now_s: float) -> str:
    """A part with the time that it took, or what it does with the time since it began."""
    if part.done_s is None:
        return f"{part.state}, {now_s - part.since_s:.1f} s"
    return f"{name} {part.done_s - part.since_s:.1f} s"
