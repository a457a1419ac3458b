"""From one version of a fleet to the next without losing a request: a router switches to the new version when replicas
host its models, and finishes with the old one what it has begun."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rankfleet.core.config import FleetConfig

T = TypeVar("T")

STRAGGLERS_S = 60.0  # how long all replicas of a group are waited for; after that, some that host the models are enough

Hosting = Callable[[str, Collection[str]], tuple[int, int]]


@dataclass(frozen=True)
class Version(Generic[T]):
    """One version of the fleet. models: fingerprints by tier. serving: what serves requests by it."""

    config: FleetConfig
    models: Mapping[str, str]
    serving: T


@dataclass
class Rollover(Generic[T]):
    """The version that is served and the one that comes next. Time is an argument, in seconds of any steady clock.

    hosting: (group, fingerprints) → (running replicas that host all of these models, running replicas).
    """

    hosting: Hosting
    now: Version[T] | None = None
    next: Version[T] | None = None
    _offered_s: float = field(default=0.0)

    def offer(self, version: Version[T], now_s: float) -> None:
        """Wait for this version; drop one that was still waited for."""
        self.next, self._offered_s = version, now_s

    def drop(self, version: Version[T]) -> None:
        """Stop waiting for this version."""
        if self.next is version:
            self.next = None

    def switch(self) -> None:
        """Serve the next version from now on."""
        if self.next is not None:
            self.now, self.next = self.next, None

    def missing(self, now_s: float) -> list[str]:
        """The groups that do not host the next version's models yet."""
        if self.next is None:
            return []
        return [name for name in self.next.config.groups if not self._hosted(self.next, name, now_s)]

    def _hosted(self, version: Version[T], name: str, now_s: float) -> bool:
        group = version.config.groups[name]
        if self.now is not None and all(self.now.models.get(tier) == version.models[tier] for tier in group.tiers):
            return True  # its models are those that are served now
        have, running = self.hosting(name, [version.models[tier] for tier in group.tiers])
        if running == 0:
            return group.replicas.min == 0  # a replica that starts will begin with the new version
        return have == running or (have > 0 and now_s - self._offered_s > STRAGGLERS_S)
