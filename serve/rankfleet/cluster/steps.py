"""What a start waits for: several parts at the same time, as one text."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Steps:
    """The state of each part that is not done, for `progress`: `models: checking · ray: starting`."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        """`progress`: called with the text whenever it changes, by the thread that changes it."""
        self._progress = progress
        self._states: dict[str, str] = {}
        self._lock = threading.Lock()

    def say(self, part: str, state: str | None) -> None:
        """Set the state of a part; None when it is done."""
        with self._lock:
            self._states[part] = state or ""
            if state is None:
                del self._states[part]
            if self._states:
                self._progress(together(self._states))

    @contextmanager
    def of(self, part: str, state: str = "starting") -> Iterator[None]:
        """The state of a part while a block runs."""
        self.say(part, state)
        try:
            yield
        finally:
            self.say(part, None)


def together(states: dict[str, str]) -> str:
    """States by part as one text."""
    return " · ".join(f"{part}: {state}" for part, state in states.items())
