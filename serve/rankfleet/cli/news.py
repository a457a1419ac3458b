"""What `rankfleet serve` says while it runs: one line when something matters, nothing when nothing does."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rankfleet.autoscaler.board import Board, Change
from rankfleet.autoscaler.reports import EJECTED, REFUSED

PERIOD_S = 10.0  # at most one line of each kind; what happens meanwhile is told after it
BURST = 10  # requests that are refused within PERIOD_S, and are worth a line


@dataclass(frozen=True)
class View:
    """The fleet at one instant.

    board: by Serve's controller
    lost: replicas that run, by the name of each part of the fleet that has lost one which is not replaced yet
    failures: why replicas cannot start
    """

    board: Board = field(default_factory=Board)
    lost: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[str] = ()


class News:
    """Compares each view of the fleet with what has been told."""

    def __init__(self, now_s: float) -> None:
        self._told_s: dict[str, float] = {}
        self._changes: dict[str, Change] = {}
        self._lost: frozenset[str] = frozenset()
        self._ejected: Counter[str] = Counter()
        self._failures: set[str] = set()
        self._counted: Mapping[str, Mapping[str, float]] = {}
        self._refused: Counter[str] = Counter()
        self._since_s = now_s  # since when refused requests are counted

    def lines(self, view: View, now_s: float) -> list[str]:
        """What is new, at most one line of a kind. now_s: by a steady clock."""
        kinds: dict[str, Callable[[], str]] = {
            "failed": lambda: self._news_of_failures(view.failures),
            "lost": lambda: self._news_of_lost(view.lost),
            "ejected": lambda: self._news_of_ejected(view.board),
            "scaled": lambda: self._news_of_scaling(view.board),
            "refused": lambda: self._news_of_refused(view.board, now_s),
        }
        found = []
        for kind, news in kinds.items():
            if now_s >= self._told_s.get(kind, -math.inf) + PERIOD_S and (line := news()):
                self._told_s[kind] = now_s
                found.append(line)
        return found

    def _news_of_failures(self, failures: Sequence[str]) -> str:
        new = [failure for failure in failures if failure not in self._failures]
        self._failures |= set(new)
        return "warning: " + "; ".join(new) if new else ""

    def _news_of_lost(self, lost: Mapping[str, int]) -> str:
        parts = [
            f"{name} has lost a replica, {lost[name]} run; another one is started"
            for name in lost
            if name not in self._lost
        ]
        parts += [f"{name} has all its replicas again" for name in sorted(self._lost - lost.keys())]
        self._lost = frozenset(lost)
        return "; ".join(parts)

    def _news_of_ejected(self, board: Board) -> str:
        ejected: Counter[str] = Counter()
        for counts in board.troubles.values():
            ejected |= Counter({name: int(count) for name, count in of_kind(EJECTED, counts).items()})
        parts = [
            f"group {name}: {count} ejected for lost or failed work, others are preferred for a while"
            for name, count in ejected.items()
            if count > self._ejected[name]
        ]
        parts += [f"group {name}: none is ejected any more" for name in self._ejected if not ejected[name]]
        self._ejected = ejected
        return "; ".join(parts)

    def _news_of_scaling(self, board: Board) -> str:
        # Without ages, which differ each time.
        changes = {
            name: replace(group.last_change, age_s=0.0) for name, group in board.groups.items() if group.last_change
        }
        new = {name: change for name, change in changes.items() if change != self._changes.get(name)}
        self._changes |= new
        return "; ".join(
            f"group {name} scaled {change.before} → {change.after}, {change.reason}" for name, change in new.items()
        )

    def _news_of_refused(self, board: Board, now_s: float) -> str:
        for router, counts in board.troubles.items():
            before = self._counted.get(router, {})
            for code, count in of_kind(REFUSED, counts).items():
                self._refused[code] += max(0, int(count - before.get(f"{REFUSED}:{code}", 0.0)))
        self._counted = board.troubles
        refused, elapsed_s = self._refused, now_s - self._since_s
        number = refused.total()
        if number < BURST and elapsed_s < PERIOD_S:
            return ""
        self._refused, self._since_s = Counter(), now_s
        codes = ", ".join(f"{code} {count}" for code, count in (+refused).most_common())
        return f"{number} requests refused in {elapsed_s:.0f} s: {codes}" if number >= BURST else ""


def of_kind(kind: str, counts: Mapping[str, float]) -> dict[str, float]:
    """What a router has counted of one kind, by group or code."""
    return {name.removeprefix(f"{kind}:"): count for name, count in counts.items() if name.startswith(f"{kind}:")}
