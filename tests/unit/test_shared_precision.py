"""Replicas of a group on different processors: the first one decides the precision, and the others follow."""

from collections.abc import Callable

from rankfleet.cluster.shared_precision import follow_first
from rankfleet.estimates.precision import Precision

INT8 = Precision("int8", "the fastest here: float32 175, int8 367 pairs/s", {"float32": 175.0, "int8": 367.0})
FLOAT32 = Precision("float32", "the fastest here: float32 300, int8 200 pairs/s", {"float32": 300.0, "int8": 200.0})


class Cluster:
    """The store that replicas share, and the replicas that live. It counts decisions."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.living: set[str] = set()
        self.decisions = 0

    def get(self, key: str) -> str | None:
        return self.texts.get(key)

    def put(self, key: str, value: str) -> None:
        self.texts.setdefault(key, value)

    def delete(self, key: str) -> None:
        self.texts.pop(key, None)

    def keys(self, prefix: str) -> list[str]:
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
    assert cluster.keys("demo/m1/followers/") == ["demo/m1/followers/c", "demo/m1/followers/d"], "the dead are removed"


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
