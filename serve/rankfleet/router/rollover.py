"""From one version of a fleet to the next without a request lost: a router turns to the new one when replicas host its
models, and ends what it has begun with the old."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rankfleet.core.config import FleetConfig

T = TypeVar("T")

STRAGGLERS_S = 60.0  # for which all replicas of a group are waited for; then those that host the models are enough

Hosting = Callable[[str, Collection[str]], tuple[int, int]]


@dataclass(frozen=True)
class Version(Generic[T]):
    """A fleet file, the fingerprints of its models by tier, and what serves it."""

    config: FleetConfig
    models: Mapping[str, str]
    serving: T


@dataclass
class Rollover(Generic[T]):
    """Time is an argument, in seconds of any steady clock. hosting: of a group, how many of its running replicas host
    all of these models, and how many run."""

    hosting: Hosting
    now: Version[T] | None = None
    next: Version[T] | None = None
    fault: str = ""
    _offered_s: float = field(default=0.0)

    def offer(self, version: Version[T], now_s: float) -> None:
        """The next version; one that was still waiting is dropped."""
        self.next, self.fault, self._offered_s = version, "", now_s

    def refuse(self, fault: str) -> None:
        """What came cannot be served, for this reason."""
        self.next, self.fault = None, fault

    def drop(self, version: Version[T]) -> None:
        """It is not waited for any more."""
        if self.next is version:
            self.next = None

    def turn(self) -> None:
        """Serve the next version from here on."""
        if self.next is not None:
            self.now, self.next = self.next, None

    def missing(self, now_s: float) -> list[str]:
        """Groups that do not host what the next version needs yet."""
        if self.next is None:
            return []
        return [name for name in self.next.config.groups if not self._hosted(self.next, name, now_s)]

    def _hosted(self, version: Version[T], name: str, now_s: float) -> bool:
        group = version.config.groups[name]
        if self.now is not None and all(self.now.models.get(tier) == version.models[tier] for tier in group.tiers):
            return True  # nothing is new in it
        have, running = self.hosting(name, [version.models[tier] for tier in group.tiers])
        if running == 0:
            return group.replicas.min == 0  # whoever starts begins with the new version
        return have == running or (have > 0 and now_s - self._offered_s > STRAGGLERS_S)
