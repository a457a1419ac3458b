"""When a chunk is sent again: the rules, without a dispatcher."""

import math

import pytest

from rankfleet.core.errors import (
    Expired,
    NotHosted,
    Overloaded,
    RankfleetError,
    ReplicaLost,
    ScoringFailed,
    Unavailable,
)
from rankfleet.router.retry import Attempts, Deadline, silent_at_s

LOST = ReplicaLost("r went away")
REFUSED = NotHosted("this replica does not host tier 'small' as the router means it")
FAILED = ScoringFailed("out of memory")
EXPIRED = Expired("the budget ended in the queue of r1")


def attempts(at_s: float = math.inf, grace_s: float = 1.0, min_ms: float = 20.0) -> Attempts:
    """Of a chunk that was first sent at 0 s."""
    return Attempts("demo", Deadline(at_s, grace_s), 0.0, min_ms)


def test_an_attempt_waits_until_its_grace_ends_and_best_effort_work_without_limit() -> None:
    assert Deadline(10.5).wait_s(10.0) == pytest.approx(1.5)
    assert Deadline(9.0).wait_s(10.0) == pytest.approx(0.0)
    assert Deadline().wait_s(10.0) is None
    assert Deadline(10.5, grace_s=math.inf).wait_s(10.0) is None, "late is fine"
    assert Deadline(10.5, grace_s=0.0).wait_s(10.0) == pytest.approx(0.5)


def test_a_replica_is_lost_after_five_silent_seconds_or_five_times_the_predicted_time() -> None:
    assert silent_at_s(100.0, 0.2) == 105.0
    assert silent_at_s(100.0, 3.0) == 115.0


def test_a_try_has_the_slack_that_is_left() -> None:
    assert attempts(0.1).slack_ms(0.03, 6.0) == pytest.approx(64.0)
    assert attempts().slack_ms(0.03, 6.0) is None


@pytest.mark.parametrize(
    ("losses", "now_s", "at_s", "min_ms", "error", "message"),
    [
        (1, 0.1, math.inf, 20, None, ""),
        (1, 0.1, 0.15, 20, None, ""),
        (1, 0.1, 0.11, 20, Expired, "r1 went away, and no time was left to ask another replica"),  # 10 ms are left
        (1, 0.2, 0.1, 0, Expired, "r1 went away, and no time was left to ask another replica"),
        (3, 0.1, math.inf, 20, None, ""),
        (4, 0.1, math.inf, 20, Unavailable, "group demo: 4 replicas went away, one after the other: r1, r2, r3, r4; "),
        (2, 120.0, math.inf, 20, Unavailable, "group demo: no replica has answered for 120 s; r2 went away; "),
        (2, 119.0, math.inf, 20, None, ""),
    ],
)
def test_a_lost_chunk_is_sent_again_at_once_while_it_can_be_in_time(
    losses: int, now_s: float, at_s: float, min_ms: float, error: type[RankfleetError] | None, message: str
) -> None:
    tries = attempts(at_s, min_ms=min_ms)
    for number in range(1, losses):
        assert tries.after(LOST, f"r{number}", True, 0.0) == 0.0
    if error is None:
        assert tries.after(LOST, f"r{losses}", True, now_s) == 0.0
        assert tries.tried == [f"r{number}" for number in range(1, losses + 1)]
        return
    with pytest.raises(error) as fault:
        tries.after(LOST, f"r{losses}", True, now_s)
    assert str(fault.value).startswith(message)
    assert fault.value.__cause__ is LOST


def test_a_loss_without_a_known_replica_counts_as_well() -> None:
    tries = attempts()
    for _ in range(3):
        assert tries.after(LOST, "", False, 0.0) == 0.0
    assert tries.tried == []
    with pytest.raises(Unavailable, match="one after the other: a replica, a replica, a replica, a replica;"):
        tries.after(LOST, "", False, 0.0)


@pytest.mark.parametrize(
    ("has_other", "now_s", "at_s", "grace_s", "pause_s"),
    [
        (True, 0.1, math.inf, 1.0, 0.0),
        (False, 0.1, math.inf, 1.0, 0.1),
        (True, 120.0, math.inf, 1.0, 0.0),
        (False, 0.1, 0.25, 1.0, 0.1),
        (False, 0.2, 0.25, 1.0, 0.05),  # the last try is at the deadline
        (False, 0.3, 0.25, math.inf, 0.1),  # late is fine
    ],
)
def test_each_replica_is_asked_once_before_a_pause_after_which_all_are_asked_again(
    has_other: bool, now_s: float, at_s: float, grace_s: float, pause_s: float
) -> None:
    tries = attempts(at_s, grace_s)
    assert tries.after(REFUSED, "r1", has_other, now_s) == pytest.approx(pause_s)
    assert tries.tried == (["r1"] if has_other else [])


def test_the_search_for_a_replica_that_hosts_the_model_ends() -> None:
    with pytest.raises(Expired, match="as the router means it, and none that does answered in time"):
        attempts(0.25).after(REFUSED, "r1", True, 0.25)
    with pytest.raises(Unavailable, match=r"group demo: this replica .* for 120 s; is an update stuck"):
        attempts().after(REFUSED, "r1", True, 120.1)


def test_one_other_replica_is_asked_for_a_chunk_on_which_scoring_failed() -> None:
    tries = attempts()
    assert tries.after(FAILED, "r1", True, 0.0) == 0.0
    assert (tries.failed, tries.tried) == ("r1", ["r1"])
    with pytest.raises(ScoringFailed):
        tries.after(FAILED, "r2", True, 0.0)


@pytest.mark.parametrize(
    ("replica", "has_other", "now_s"),
    [("r1", False, 0.0), ("", True, 0.0), ("r1", True, 0.09)],
    ids=["no other replica", "no known replica", "no time"],
)
def test_a_failure_stands_where_no_other_replica_can_help(replica: str, has_other: bool, now_s: float) -> None:
    with pytest.raises(ScoringFailed):
        attempts(0.1).after(FAILED, replica, has_other, now_s)


def test_with_infinite_grace_an_expired_chunk_is_queued_again_with_twice_the_budget() -> None:
    tries = attempts(0.1, grace_s=math.inf)
    assert tries.after(EXPIRED, "r1", True, 0.09) == 0.0
    assert (tries.at_s, tries.slack_ms(0.09, 6.0)) == (pytest.approx(0.29), pytest.approx(194.0))
    assert tries.after(EXPIRED, "r1", True, 0.28) == 0.0
    assert tries.at_s == pytest.approx(0.68)


def test_each_further_try_has_at_least_twice_the_time_that_the_work_takes() -> None:
    late = Attempts("demo", Deadline(0.03, grace_s=math.inf), first_s=0.02, min_ms=50.0)
    late.after(EXPIRED, "r1", True, 0.03)
    assert late.at_s == pytest.approx(0.13)
    past = Attempts("demo", Deadline(0.0, grace_s=math.inf), first_s=0.02, min_ms=0.0)
    past.after(EXPIRED, "r1", True, 0.02)
    assert past.at_s > 0.02, "or it would be sent again and again"


@pytest.mark.parametrize("error", [Expired("too late"), Overloaded("full", 2.5), Unavailable("none")])
def test_other_errors_are_those_of_the_request(error: RankfleetError) -> None:
    with pytest.raises(type(error)) as fault:
        attempts(1.0).after(error, "r1", True, 0.0)
    assert fault.value is error
