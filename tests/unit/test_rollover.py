"""When a router turns to the next version of its fleet."""

from collections.abc import Collection

from rankfleet.core.config import FleetConfig
from rankfleet.router.rollover import STRAGGLERS_S, Rollover, Version
from tests.unit.fakes import fleet

OLD, NEW = {"small": "a1", "medium": "b1", "large": "c1"}, {"small": "a2", "medium": "b1", "large": "c1"}


class Replicas:
    """What each running replica hosts."""

    def __init__(self, *hosts: set[str]) -> None:
        self.hosts = list(hosts)

    def __call__(self, group: str, models: Collection[str]) -> tuple[int, int]:
        return sum(set(models) <= hosts for hosts in self.hosts), len(self.hosts)


def version(models: dict[str, str], config: FleetConfig | None = None) -> Version[str]:
    return Version(config or fleet(), models, models["small"])


def test_the_first_version_waits_for_a_replica() -> None:
    replicas = Replicas()
    rollover = Rollover[str](replicas)
    rollover.offer(version(OLD), 0.0)
    assert rollover.missing(100.0) == ["demo"]
    replicas.hosts.append({"a1", "b1"})
    assert rollover.missing(100.0) == ["demo"], "it is still loading"
    replicas.hosts[0].add("c1")
    assert rollover.missing(100.0) == []
    rollover.switch()
    assert rollover.now is not None
    assert (rollover.now.serving, rollover.next) == ("a1", None)


def test_the_next_version_waits_for_all_replicas_but_only_a_minute_for_the_last() -> None:
    replicas = Replicas({"a1", "b1", "c1"}, {"a1", "b1", "c1"})
    rollover = Rollover[str](replicas)
    rollover.offer(version(OLD), 0.0)
    rollover.switch()
    rollover.offer(version(NEW), 10.0)
    assert (rollover.missing(10.0), rollover.now.serving) == (["demo"], "a1")  # type: ignore[union-attr]
    replicas.hosts[0].add("a2")
    assert rollover.missing(10.0 + STRAGGLERS_S) == ["demo"]
    assert rollover.missing(10.1 + STRAGGLERS_S) == []
    replicas.hosts[0].remove("a2")
    assert rollover.missing(1e9) == ["demo"], "a version that no replica hosts is never turned to"


def test_a_group_that_is_asleep_is_not_waited_for() -> None:
    asleep = fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 1}}})
    rollover = Rollover[str](Replicas())
    rollover.offer(version(OLD, asleep), 0.0)
    assert rollover.missing(0.0) == []


def test_only_groups_with_a_new_model_are_waited_for() -> None:
    replicas = Replicas({"a1", "b1", "c1"})
    rollover = Rollover[str](replicas)
    rollover.offer(version(OLD), 0.0)
    rollover.switch()
    replicas.hosts.clear()  # every replica has just died: a class or a split can change all the same
    rollover.offer(version(OLD, fleet(default_model="small")), 1.0)
    assert rollover.missing(1.0) == []


def test_a_dropped_version_is_not_waited_for() -> None:
    rollover = Rollover[str](Replicas())
    first, second = version(OLD), version(NEW)
    rollover.offer(first, 0.0)
    rollover.offer(second, 1.0)
    rollover.drop(first)
    assert rollover.next is second
    rollover.drop(second)
    assert rollover.next is None
    assert rollover.missing(1.0) == []
