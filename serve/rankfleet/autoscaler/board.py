"""What Serve's controller tells people about the fleet: the last scaling decision of each group, and what routers
report of ejected replicas and refused requests.

Ages are told in place of times: clocks of two machines are not compared.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from rankfleet.autoscaler.policy import Decision
from rankfleet.autoscaler.reports import EJECTED, REFUSED, Report


@dataclass(frozen=True)
class Change:
    """A decision that changed the number of replicas. number: one more than that of the group's change before."""

    number: int
    age_s: float
    before: int
    after: int
    reason: str


@dataclass(frozen=True)
class GroupBoard:
    """The last decision of one group.

    state: of `Decision`, or `fixed` where `replicas.min` and `max` are the same
    target, running: replicas that it should have, and that take work
    last_change: the last decision that changed the number; None if there was none since the controller started
    """

    state: str
    reason: str
    target: int
    running: int
    last_change: Change | None = None

    def older(self, by_s: float) -> "GroupBoard":
        """The same group, some seconds later."""
        change = self.last_change
        return replace(self, last_change=change and replace(change, age_s=change.age_s + by_s))


@dataclass(frozen=True)
class Board:
    """groups: by name. troubles: by router, what it has counted, as in `router_report`."""

    groups: Mapping[str, GroupBoard] = field(default_factory=dict)
    troubles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> str:
        return ADAPTER.dump_json(self).decode()

    def older(self, by_s: float) -> "Board":
        """The same board, some seconds later."""
        return replace(self, groups={name: group.older(by_s) for name, group in self.groups.items()})


ADAPTER = TypeAdapter(Board)


def parse_board(text: str | None) -> Board:
    """The board in a text; an empty one if there is none, or one of another version of Rankfleet."""
    try:
        return ADAPTER.validate_json(text or "{}")
    except ValidationError:
        return Board()


def troubles_in(routers: Mapping[str, Report]) -> dict[str, dict[str, float]]:
    """What routers report of refused requests and ejected replicas, by router."""
    return {
        name: {key: value for key, value in report.values.items() if key.partition(":")[0] in (REFUSED, EJECTED)}
        for name, report in routers.items()
    }


@dataclass
class BoardKeeper:
    """Keeps what the board says of each group. Times are by a steady clock."""

    _groups: dict[str, GroupBoard] = field(default_factory=dict)
    _changed_s: dict[str, float] = field(default_factory=dict)
    _steps: dict[str, tuple[int, int]] = field(default_factory=dict)  # replicas before and after the last decision

    def fixed(self, group: str, target: int, running: int) -> None:
        """Note a group that has nothing to decide."""
        reason = "the fleet file sets the same number for `min` and `max`"
        self._groups[group] = GroupBoard("fixed", reason, target, running)

    def decided(self, group: str, decision: Decision, target: int, running: int, now_s: float) -> bool:
        """Note a decision for a group with this target so far. Returns whether it is a change; not again where Serve
        has not followed yet."""
        step = target, decision.replicas
        is_change = target != decision.replicas and step != self._steps.get(group)
        change = self._groups[group].last_change if group in self._groups else None
        if is_change:
            change = Change(change.number + 1 if change else 1, 0.0, *step, decision.reason)
            self._changed_s[group] = now_s
        self._steps[group] = step
        self._groups[group] = GroupBoard(decision.state, decision.reason, decision.replicas, running, change)
        return is_change

    def board(self, groups: Collection[str], troubles: Mapping[str, Mapping[str, float]], now_s: float) -> Board:
        """The board of these groups; others are gone. troubles: as in `Board`."""
        self._groups = {name: group for name, group in self._groups.items() if name in groups}
        ages_s = {name: now_s - changed_s for name, changed_s in self._changed_s.items()}
        return Board({name: group.older(ages_s.get(name, 0.0)) for name, group in self._groups.items()}, troubles)
