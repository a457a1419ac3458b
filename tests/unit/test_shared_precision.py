"""Replicas of a group on different processors: the first one decides the precision, and the others follow."""

from collections.abc import Callable

import pytest

from rankfleet.cluster.shared_precision import follow_first
from rankfleet.estimates.precision import Precision

INT8 = Precision("int8", "the fastest here: float32 175, int8 367 pairs/s", {"float32": 175.0, "int8": 367.0})
FLOAT32 = Precision("float32", "the fastest here: float32 300, int8 200 pairs/s", {"float32": 300.0, "int8": 200.0})


class Cluster:
    """The store that replicas share, and the replicas that live. It counts decisions.

    before: called with the number of each call of the store before it is carried out.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.living: set[str] = set()
        self.decisions = self.calls = 0
        self.before: Callable[[int], object] = int

    def _called(self) -> None:
        self.calls += 1
        self.before(self.calls)

    def get(self, key: str) -> str | None:
        self._called()
        return self.texts.get(key)

    def put(self, key: str, value: str) -> None:
        self._called()
        self.texts.setdefault(key, value)

    def delete(self, key: str) -> None:
        self._called()
        self.texts.pop(key, None)

    def keys(self, prefix: str) -> list[str]:
        self._called()
        return [key for key in self.texts if key.startswith(prefix)]

    def start(
        self,
        replica: str,
        own: Precision,
        group: str = "demo",
        model: str = "m1",
        meanwhile: Callable[[], object] = int,
    ) -> Precision:
        """What a new replica computes in. own: what it would decide. meanwhile: happens while it decides."""
        self.living.add(replica)

        def decide() -> Precision:
            self.decisions += 1
            meanwhile()
            return own

        return follow_first(self, replica, lambda: self.living, group, model, decide)


def test_a_replica_on_another_processor_follows_the_first_without_measuring() -> None:
    cluster = Cluster()
    assert cluster.start("a", INT8) == INT8
    assert cluster.start("b", FLOAT32) == INT8, "with its reason and rates"
    assert cluster.decisions == 1


def test_replicas_that_start_at_the_same_time_agree() -> None:
    cluster = Cluster()
    others = []
    assert cluster.start("a", INT8, meanwhile=lambda: others.append(cluster.start("b", FLOAT32))) == FLOAT32
    assert others == [FLOAT32], "it was done first"


def test_the_choice_outlives_the_replica_that_made_it_while_others_follow() -> None:
    cluster = Cluster()
    cluster.start("a", INT8)
    cluster.start("b", FLOAT32)
    cluster.living.remove("a")
    assert cluster.start("c", FLOAT32) == INT8


def test_when_all_replicas_are_gone_the_next_one_decides_anew() -> None:
    cluster = Cluster()
    cluster.start("a", INT8)
    cluster.start("b", INT8)
    cluster.living.clear()
    assert cluster.start("c", FLOAT32) == FLOAT32
    assert cluster.start("d", INT8) == FLOAT32


@pytest.mark.parametrize("call", range(1, 12))
def test_two_that_start_at_the_same_time_after_all_others_have_gone_decide_anew(call: int) -> None:
    """The second starts before one of the calls of the store that the first one makes."""
    cluster = Cluster()
    cluster.start("a", INT8)
    cluster.start("b", INT8)
    cluster.living.clear()
    second = []

    def start_second(number: int) -> None:
        if number == call:
            second.append(cluster.start("d", FLOAT32))

    cluster.calls, cluster.before = 0, start_second
    assert cluster.start("c", FLOAT32) == FLOAT32
    assert second == [FLOAT32] * (cluster.calls >= call)
    assert cluster.start("e", INT8) == FLOAT32


def test_of_replicas_that_come_and_go_nothing_stays() -> None:
    cluster = Cluster()
    for number in range(20):
        cluster.start(f"r{number}", INT8)
        cluster.living.discard(f"r{number - 1}")
    assert len(cluster.texts) <= 3, "a choice and its followers, one of which may have gone"
    cluster.living.clear()
    for number in range(20):
        cluster.start(f"s{number}", INT8)
        cluster.living.clear()
    assert len(cluster.texts) <= 3, "so too where each is the only one"


def test_a_replica_that_loads_a_model_again_decides_again_if_it_is_alone() -> None:
    cluster = Cluster()
    cluster.start("a", INT8)
    assert cluster.start("a", FLOAT32) == FLOAT32


def test_another_model_and_another_group_have_choices_of_their_own() -> None:
    cluster = Cluster()
    assert cluster.start("a", INT8) == INT8
    assert cluster.start("a", FLOAT32, model="m2") == FLOAT32
    assert cluster.start("b", FLOAT32, group="demo2") == FLOAT32
    assert cluster.start("c", FLOAT32) == INT8
