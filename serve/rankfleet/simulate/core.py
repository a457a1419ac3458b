"""The processor core that client and router share in the simulator."""


class Core:
    """Does one piece of work at a time, in the order in which they come."""

    def __init__(self) -> None:
        self._free_s = 0.0

    def occupy(self, ms: float, now_s: float) -> tuple[float, float]:
        """Give the core a piece of work of so many milliseconds. Returns when it begins and when it ends.

        What takes no time does not wait.
        """
        if ms <= 0:
            return now_s, now_s
        begins_s = max(now_s, self._free_s)
        self._free_s = begins_s + ms / 1e3
        return begins_s, self._free_s
