from collections import Counter

from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import Experiment
from rankfleet.router.experiments import arm_of, assign, bucket


def split(small: float, large: float, **settings: str) -> Experiment:
    arms = {"a": {"model": "small", "weight": small}, "b": {"model": "large", "weight": large}}
    return Experiment.model_validate({"arms": arms} | settings)


def request(**units: str) -> RerankRequest:
    return RerankRequest("q", ["d"], **units)  # type: ignore[arg-type]


def test_buckets_never_change() -> None:
    # The first 16 hex digits of `printf 'exp\000%s\000%s' 1 user-1 | sha256sum`, modulo 10,000.
    assert bucket("exp", "1", "user-1") == 7156
    assert bucket("exp", "1", "user-2") == 3927


def test_units_are_assigned_by_weight() -> None:
    counts = Counter(arm_of("exp", split(30, 70), f"user-{i}") for i in range(20_000))
    # 30% ± 4 standard errors of sqrt(.3·.7/20000) = 0.32%
    assert abs(counts["a"] / 20_000 - 0.3) < 0.013


def test_a_change_of_weight_moves_as_few_units_as_possible() -> None:
    users = [f"user-{i}" for i in range(5000)]
    before = {u: arm_of("exp", split(10, 90), u) for u in users}
    after = {u: arm_of("exp", split(25, 75), u) for u in users}
    assert not [u for u in users if before[u] == "a" and after[u] == "b"]


def test_another_seed_assigns_anew() -> None:
    users = [f"user-{i}" for i in range(2000)]
    same = sum(arm_of("exp", split(50, 50), u) == arm_of("exp", split(50, 50, seed="2"), u) for u in users)
    assert 0.4 < same / 2000 < 0.6


def test_an_arm_without_weight_gets_no_unit() -> None:
    assert {arm_of("exp", split(0, 1), f"u{i}") for i in range(1000)} == {"b"}
    assert {arm_of("exp", split(1, 0), f"u{i}") for i in range(1000)} == {"a"}


def test_only_requests_that_name_the_unit_take_part() -> None:
    by_session = {"exp": split(1, 0, unit="session")}
    assert assign(by_session, request(user="u")) is None
    assignment = assign(by_session, request(session="s"))
    assert assignment is not None
    assert (assignment.experiment, assignment.arm, assignment.model) == ("exp", "a", "small")
