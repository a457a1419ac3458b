"""The in-flight ledger: which replica gets a chunk, what is in flight, and who is ready, silent or ejected."""

import math

import pytest

from rankfleet.estimates.frontier import Frontier
from rankfleet.router.ledger import HEARD_S, Ledger
from rankfleet.router.replica_record import Entry, ReplicaRecord
from rankfleet.router.retry import GROUP_GONE, NO_REPLICA, PATIENCE_S
from tests.unit.fakes import one_tier, tier_option


def chunk(ms: float = 10.0, run_ms: float | None = None, **more: object) -> Entry:
    """ms: predicted by its replica's queue; run_ms: if it finds its replica idle, the same by default."""
    frontier = one_tier(ms if run_ms is None else run_ms)
    settings: dict[str, object] = {"predicted_ms": ms, "deadline_s": math.inf, "sent_s": 0.0, "frontier": frontier}
    return Entry(**settings | more)  # type: ignore[arg-type]


def opened(ledger: Ledger, ms: float = 10.0, now_s: float = 0.0, **more: object) -> Entry:
    """A chunk that is in flight and at no replica yet."""
    entry = chunk(ms, sent_s=now_s, **more)
    ledger.open(entry, now_s)
    return entry


def placed(ledger: Ledger, replica: str, ms: float = 10.0, now_s: float = 0.0, **more: object) -> Entry:
    """A chunk that is in flight at this replica."""
    entry = opened(ledger, ms, now_s, **more)
    ledger.choose(entry, [replica], now_s)
    return entry


def chosen(ledger: Ledger, names: str = "ab", ms: float = 10.0, now_s: float = 0.0, **more: object) -> str:
    """Who of these replicas, named by a letter each, gets another chunk."""
    entry = opened(ledger, ms, now_s, **more)
    assert names[ledger.choose(entry, list(names), now_s)] == entry.replica
    return entry.replica


def ledger_of(names: str, **hosts: str) -> Ledger:
    """hosts: the models, named by a letter each, that a replica has reported."""
    ledger = Ledger()
    ledger.update(frozenset(names), {name: frozenset(models) for name, models in hosts.items()})
    return ledger


# Which replica gets a chunk


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_chunks_that_are_sent_at_once_go_to_different_replicas(names: str) -> None:
    ledger = Ledger()
    assert sorted(chosen(ledger, names) for _ in names) == list(names)


def test_the_least_predicted_time_wins_and_not_the_fewest_chunks() -> None:
    ledger = Ledger()
    placed(ledger, "a", 100.0)
    assert [chosen(ledger, ms=20.0) for _ in range(5)] == ["b", "b", "b", "b", "b"]
    # 100 ms each: a has one chunk and b has five. Then a has 120 ms.
    assert [chosen(ledger, ms=20.0) for _ in range(2)] == ["a", "b"]


def test_idle_replicas_take_turns() -> None:
    ledger, names = Ledger(), []
    for _ in range(4):
        entry = opened(ledger)
        ledger.choose(entry, ["a", "b"], 0.0)
        ledger.close(entry, 0.0)
        names.append(entry.replica)
    assert sorted(names) == ["a", "a", "b", "b"]


def test_without_predicted_times_the_fewest_chunks_win() -> None:
    ledger = Ledger()
    placed(ledger, "a", 0.0)
    assert chosen(ledger, ms=0.0) == "b"
    assert {chosen(ledger, ms=0.0), chosen(ledger, ms=0.0)} == {"a", "b"}


def test_what_a_replica_reported_counts_until_it_is_done_whoever_sent_it() -> None:
    ledger = ledger_of("ab")
    placed(ledger, "a", 10.0)
    ledger.answered("b", backlog_s=0.021, now_s=0.0)
    assert [chosen(ledger) for _ in range(3)] == ["a", "a", "b"], "10 ms against 21; 20 against 21; then 30"
    # At 21 ms all is done that b reported and that a began with: 10 ms are left at b, and 20 at a.
    assert chosen(ledger, now_s=0.021) == "b"


def test_an_answer_says_what_is_left_of_what_was_sent() -> None:
    ledger = ledger_of("ab")
    for _ in range(3):
        placed(ledger, "a", 10.0)
    ledger.answered("a", backlog_s=0.004, now_s=0.020)
    placed(ledger, "b", 5.0, now_s=0.020)
    assert chosen(ledger, now_s=0.020) == "a", "4 ms against 5"


def test_of_what_other_routers_have_sent_that_counts_which_comes_before_this_routers_own() -> None:
    ledger = ledger_of("a")
    ledger.answered("a", backlog_s=10.0, now_s=0.0, ahead_s=0.1)
    assert ledger.backlog_s(1, 0.0) == pytest.approx(0.1), "the rest has an hour"
    placed(ledger, "a", 2000.0)
    ledger.answered("a", backlog_s=10.0, now_s=0.0, ahead_s=0.1)
    assert ledger.backlog_s(1, 0.0) == pytest.approx(2.1), "and its own"
    ledger.answered("a", backlog_s=1.5, now_s=0.0, ahead_s=0.1)
    assert ledger.backlog_s(1, 0.0) == pytest.approx(1.5), "but never more than there is"


def test_withdrawn_chunks_take_all_with_them_that_their_replica_counted_for_them() -> None:
    ledger = ledger_of("a")
    done, *withdrawn = [placed(ledger, "a", 1000.0) for _ in range(4)]
    ledger.close(done, 0.1)
    ledger.answered("a", backlog_s=6.0, now_s=0.1)  # twice what this router has predicted for the three others
    ledger.close(withdrawn[0], 0.1, withdrawn=True)
    assert ledger.backlog_s(1, 0.1) == pytest.approx(4.0)
    ledger.close(withdrawn[1], 1.1, withdrawn=True)
    assert ledger.backlog_s(1, 1.1) == pytest.approx(1.5), "half of the 3 seconds that are left by then"
    ledger.close(withdrawn[2], 1.1, withdrawn=True)
    assert ledger.backlog_s(1, 1.1) == 0.0


def test_a_report_that_comes_just_after_chunks_were_withdrawn_may_still_hold_their_time() -> None:
    ledger = ledger_of("a")
    others = [placed(ledger, "a", 1000.0) for _ in range(2)]
    answered = placed(ledger, "a", 10.0)
    for entry in others:
        ledger.close(entry, 0.1, withdrawn=True)
    ledger.close(answered, 0.2)
    ledger.answered("a", backlog_s=2.0, now_s=0.2)
    assert ledger.backlog_s(1, 0.2) == 0.0
    placed(ledger, "a", 10.0, now_s=1.2)
    ledger.answered("a", backlog_s=2.0, now_s=1.2)
    assert ledger.backlog_s(1, 1.2) == 2.0, "by now it knows"


def test_a_chunk_that_finds_a_replica_idle_runs_at_once_at_its_planned_tier() -> None:
    ledger = ledger_of("ab")
    placed(ledger, "a", 10.0, run_ms=100.0)
    placed(ledger, "b", 10.0, run_ms=10.0)
    placed(ledger, "b", 30.0, run_ms=300.0)  # behind another it may still be given a smaller tier
    assert chosen(ledger) == "b", "100 ms against 10 + 30"


def test_an_idle_replica_is_expected_to_take_the_best_tier_that_its_horizon_allows() -> None:
    options = [tier_option("small", 0.3, 10.0), tier_option("large", 0.5, 100.0)]
    entries = [chunk(frontier=Frontier.of(options), deadline_s=deadline_s) for deadline_s in (1.0, 0.05)]
    for name, entry in zip("ab", entries, strict=True):
        ledger = ledger_of("ab")
        ledger.open(entry, 0.0)
        ledger.place(entry, name, 0.0)
    assert [entry.run_ms for entry in entries] == [100.0, 10.0], "50 ms are too few for large"
    # After a burst at this replica the horizon is short: half of an arrival at 100 a second or 0.26 of the typical
    # budget of 100 ms, times the price to the power of 0.63. Large gains .2 in 90 ms: .222 in 100 ms, so 10.1 ms.
    ledger = ledger_of("a")
    for i in range(100):
        ledger.close(placed(ledger, "a", now_s=i / 1e3, deadline_s=i / 1e3 + 0.1), i / 1e3)
        placed(ledger, "a", now_s=i / 1e3, deadline_s=i / 1e3 + 0.1)
    ledger.answered("a", 0.0, 0.2)
    burst = chunk(frontier=Frontier.of(options), deadline_s=1.2)
    ledger.open(burst, 0.2)
    ledger.place(burst, "a", 0.2)
    assert burst.run_ms == 10.0


def test_what_a_replica_reported_is_forgotten_with_it() -> None:
    ledger = ledger_of("ab")
    ledger.answered("a", backlog_s=60.0, now_s=0.0)
    ledger.answered("gone", backlog_s=60.0, now_s=0.0)
    assert [chosen(ledger), chosen(ledger)] == ["b", "b"]
    ledger.update(frozenset("b"))
    ledger.update(frozenset("ab"))
    assert [chosen(ledger), chosen(ledger)] == ["a", "a"]


def test_a_backlog_drains_with_time() -> None:
    record = ReplicaRecord(known_s=10.0, backlog_s=0.4, since_ms=50.0)
    assert [record.ahead_ms(now_s) for now_s in (10.0, 10.1, 10.4, 11.0)] == pytest.approx([450, 350, 50, 50])


def test_a_chunk_that_moves_counts_at_its_new_replica_alone() -> None:
    ledger = Ledger()
    entry = placed(ledger, "a", 50.0)
    ledger.place(entry, "b", 0.0)
    assert [chosen(ledger, ms=20.0) for _ in range(3)] == ["a", "a", "a"], "0, 20 and 40 ms against 50"
    assert chosen(ledger, ms=20.0) == "b"


def test_a_chunk_that_is_closed_counts_nowhere() -> None:
    ledger = Ledger()
    first, second = placed(ledger, "a", 10.0), placed(ledger, "a", 30.0)
    for entry in (first, second, second, chunk()):  # closing one that is not open does nothing
        ledger.close(entry, 0.0)
    # Serve may still choose a replica for a request that was cancelled.
    ledger.choose(first, ["a", "b"], 0.0)
    ledger.place(second, "b", 0.0)
    assert (ledger.busy, ledger.in_flight, ledger.backlog_s(1, 0.0)) == (False, (), 0.0)
    assert {chosen(ledger, ms=1.0), chosen(ledger, ms=1.0)} == {"a", "b"}


def test_replicas_that_host_a_model_are_preferred_even_if_they_are_busier() -> None:
    ledger = ledger_of("abc", a="xy", b="zy")
    placed(ledger, "b", 50.0)
    assert [chosen(ledger, "abc", models="z") for _ in range(2)] == ["c", "c"], "c has not said what it hosts"
    assert [chosen(ledger, "ab", models="z") for _ in range(2)] == ["b", "b"]
    assert chosen(ledger, "ab", models="zx") == "a", "one of the models is enough"
    assert chosen(ledger, "ab", models="y") == "a"
    assert chosen(ledger, "ab") == "a", "a chunk without a model goes to any"
    assert chosen(ledger, "a", models="z") == "a", "where no other is left"


def test_hosting_counts_replicas_that_have_reported_all_of_the_models() -> None:
    ledger = ledger_of("abc", a="xy", b="zy")
    assert ledger.hosting("xy") == (1, 3)
    assert ledger.hosting("y") == (2, 3)
    assert Ledger().hosting("y") == (0, 0)


def test_replicas_that_have_been_tried_come_last() -> None:
    ledger = ledger_of("abc")
    assert [chosen(ledger, "abc", tried=["a", "c"]) for _ in range(3)] == ["b", "b", "b"]
    assert chosen(ledger, "ac", tried=["a", "c"]) in ("a", "c")
    assert chosen(ledger_of("ab", b="x"), models="y", tried=["a"]) == "a", "b would refuse it"


def test_replicas_that_are_ejected_come_last_but_before_those_tried() -> None:
    ledger = ledger_of("ab")
    ledger.eject("a", 0.0)
    assert [chosen(ledger) for _ in range(3)] == ["b", "b", "b"]
    assert chosen(ledger, "a") == "a", "no other is left"
    assert chosen(ledger, tried=["b"]) == "a"


def test_whether_another_replica_could_score_a_chunk() -> None:
    ledger = ledger_of("abc", a="x", b="x", c="y")
    assert ledger.has_other((), tried=["a"])
    assert not ledger.has_other((), tried=["a", "b", "c"])
    assert ledger.has_other("x", tried=["a"])
    assert not ledger.has_other("x", tried=["a", "b"]), "c would refuse it, and is not asked"
    assert ledger.has_other("z", tried=["a", "b"]), "none hosts it, so all are asked"
    assert not Ledger().has_other((), tried=[]), "Serve has named none"


# Who is ready


def test_before_serve_names_replicas_those_count_that_are_kept_or_report() -> None:
    ledger = Ledger()
    assert (ledger.ready(0.0), ledger.ready(0.0, min_replicas=4)) == (1, 4)
    ledger.answered("r1", 0.0, 0.0)
    ledger.answered("r2", 0.0, 0.0)
    assert (ledger.ready(0.1), ledger.ready(0.1, min_replicas=4)) == (2, 4)


def test_a_replica_that_stops_reporting_is_forgotten() -> None:
    ledger = Ledger()
    ledger.answered("r1", 0.0, 0.0)
    ledger.answered("r2", 0.0, HEARD_S)
    assert (ledger.ready(HEARD_S), ledger.ready(HEARD_S + 1)) == (2, 1)


def test_serves_list_of_replicas_overrides_reports() -> None:
    ledger = Ledger()
    assert not ledger.awake(min_replicas=0), "none has reported"
    assert ledger.awake(min_replicas=1)
    assert not ledger.asleep(min_replicas=0), "Serve has not said so"
    ledger.answered("r1", 0.0, 0.0)
    assert ledger.awake(min_replicas=0)
    ledger.update(frozenset(("r1", "r2", "r3")))
    assert (ledger.ready(0.0), ledger.awake(0), ledger.asleep(0)) == (3, True, False)
    ledger.update(frozenset())
    assert (ledger.ready(0.0), ledger.awake(0), ledger.asleep(0)) == (1, False, True), "a plan needs one to come"


def test_a_group_with_a_minimum_is_not_asleep_when_all_its_replicas_have_died() -> None:
    ledger = ledger_of("")
    assert (ledger.asleep(min_replicas=1), ledger.awake(min_replicas=1)) == (False, False)


def test_replicas_that_serve_does_not_list_are_ignored() -> None:
    ledger = Ledger()
    ledger.answered("r1", 0.4, 0.0)
    ledger.answered("r2", 0.4, 0.0)
    ledger.update(frozenset({"r2", "r3", "r4"}))
    assert ledger.ready(0.0) == 3
    # r1 is gone with what it reported; a last answer of its does not bring it back.
    ledger.answered("r1", 0.4, 0.0)
    assert ledger.backlog_s(3, 0.0) == pytest.approx(0.4 / 3)
    ledger.eject("r2", 0.0)
    assert (ledger.ready(0.0), ledger.backlog_s(2, 0.0)) == (2, 0.0)


# Ejection


def test_an_ejection_grows_by_a_step_each_time_and_shrinks_with_time() -> None:
    ledger = ledger_of("ab")
    for start_s, end_s in (
        (0.0, 5.0),
        (5.0, 15.0),
        (15.0, 30.0),
        (34.9, 54.9),  # less than a step without ejection
        (70.0, 80.0),  # 15.1 s without: three steps less than the four before, and one more
        (200.0, 205.0),
    ):
        ledger.eject("a", start_s)
        assert [ledger.is_ejected("a", at_s) for at_s in (start_s, end_s - 0.01, end_s)] == [True, True, False]


def test_an_ejection_lasts_a_minute_at_most_and_is_served_off_within_another() -> None:
    ledger, now_s = ledger_of("ab"), 0.0
    lengths = []
    for _ in range(20):
        ledger.eject("a", now_s)
        start_s = now_s
        while ledger.is_ejected("a", now_s):
            now_s += 5.0
        lengths.append(now_s - start_s)
    assert lengths == [*range(5, 60, 5), *[60] * 9]
    ledger.eject("a", now_s + 60.0)
    assert [ledger.is_ejected("a", now_s + at_s) for at_s in (64.9, 65.0)] == [True, False]


def test_chunks_that_are_lost_at_once_are_one_ejection() -> None:
    ledger = ledger_of("ab")
    for at_s in (0.0, 0.0, 4.9):
        ledger.eject("a", at_s)
    assert not ledger.is_ejected("a", 5.0)
    ledger.eject("a", 5.0)
    assert (ledger.is_ejected("a", 14.9), ledger.is_ejected("a", 15.0)) == (True, False), "the second"


def test_after_its_ejection_a_replica_gets_one_chunk_until_it_answers() -> None:
    ledger = ledger_of("ab")
    ledger.eject("a", 0.0)
    placed(ledger, "b", 2000.0, now_s=5.0)
    assert chosen(ledger, now_s=5.0) == "a"
    assert chosen(ledger, now_s=6.0) == "b", "that chunk should have taken 10 ms"
    ledger.answered("a", 0.0, 6.0)
    assert (chosen(ledger, now_s=6.0), chosen(ledger, now_s=6.5)) == ("a", "a")


def test_the_last_replica_is_never_ejected() -> None:
    ledger = ledger_of("ab")
    ledger.eject("a", 0.0)
    ledger.eject("b", 0.0)
    assert (ledger.is_ejected("a", 0.0), ledger.is_ejected("b", 0.0), ledger.ready(0.0)) == (True, False, 1)
    ledger.eject("b", 5.0)
    assert ledger.is_ejected("b", 5.0), "a is back"
    assert chosen(ledger, now_s=5.0) == "a"


def test_a_group_of_one_replica_stays_ready_and_awake_whatever_that_loses() -> None:
    ledger = ledger_of("a")
    ledger.answered("a", 0.4, 0.0)
    ledger.eject("a", 0.0)
    assert (ledger.is_ejected("a", 0.0), ledger.ready(0.0), ledger.awake(0), ledger.asleep(0)) == (
        False,
        1,
        True,
        False,
    )
    assert ledger.backlog_s(1, 0.0) == 0.0, "what it last reported is forgotten all the same"
    assert chosen(ledger, "a") == "a"


@pytest.mark.parametrize("name", ["", "gone"])
def test_only_replicas_that_run_are_ejected(name: str) -> None:
    ledger = ledger_of("ab")
    ledger.eject(name, 0.0)
    assert not ledger.is_ejected(name, 0.0)
    silent_about_replicas = Ledger()
    silent_about_replicas.eject("a", 0.0)
    assert not silent_about_replicas.is_ejected("a", 0.0)


def test_a_replica_that_comes_back_under_its_name_is_not_ejected() -> None:
    ledger = ledger_of("ab")
    ledger.eject("a", 0.0)
    ledger.update(frozenset("b"))
    ledger.update(frozenset("ab"))
    assert not ledger.is_ejected("a", 0.0)


# Silence


def silent(ledger: Ledger, now_s: float) -> dict[str, str]:
    """Replica → why its chunk is given up."""
    return {entry.replica: entry.given_up for entry in ledger.silent(now_s)}


def test_a_replica_is_silent_after_five_seconds_or_five_times_the_predicted_time() -> None:
    ledger = Ledger()
    placed(ledger, "a", p99_s=0.1)
    placed(ledger, "b", p99_s=3.0)
    assert silent(ledger, 5.0) == {}
    assert silent(ledger, 5.1) == {"a": "silence"}
    assert silent(ledger, 15.0) == {"a": "silence"}
    assert silent(ledger, 15.1) == {"a": "silence", "b": "silence"}


def test_the_predicted_time_has_the_work_ahead_at_the_chunks_own_replica() -> None:
    ledger = ledger_of("ab")
    ledger.answered("b", 7.0, 0.0)
    placed(ledger, "a", p99_s=0.5)
    placed(ledger, "b", p99_s=0.5)
    assert [silent(ledger, 5.1), silent(ledger, 37.5)] == [{"a": "silence"}] * 2, "7.5 s are predicted at b"
    assert silent(ledger, 37.6) == {"a": "silence", "b": "silence"}


def test_a_replica_that_answers_other_chunks_is_not_silent() -> None:
    ledger = ledger_of("ab")
    placed(ledger, "a")
    placed(ledger, "b")
    ledger.answered("a", 0.0, 4.0)
    assert silent(ledger, 8.9) == {"b": "silence"}
    assert silent(ledger, 9.1) == {"a": "silence", "b": "silence"}


def test_a_process_that_did_not_run_has_heard_nothing_of_any_replica() -> None:
    ledger = Ledger()
    placed(ledger, "a")
    ledger.resumed(8.0)
    assert silent(ledger, 13.0) == {}
    assert silent(ledger, 13.1) == {"a": "silence"}


def test_a_chunk_that_gets_no_replica_is_given_up_after_a_while() -> None:
    ledger = Ledger()
    opened(ledger)
    assert silent(ledger, PATIENCE_S) == {}
    assert silent(ledger, PATIENCE_S + 0.1) == {"": NO_REPLICA}


def test_a_chunk_of_a_group_that_is_gone_waits_for_no_replica() -> None:
    ledger = Ledger()
    placed(ledger, "a")
    opened(ledger)
    ledger.no_replica_comes()
    assert silent(ledger, 0.1) == {"": GROUP_GONE}, "the other may still be answered"


def test_silence_counts_from_when_a_replica_was_chosen() -> None:
    ledger = Ledger()
    entry = opened(ledger)
    ledger.choose(entry, ["a"], 60.0)  # a minute later: the first replica had to start
    assert silent(ledger, 65.0) == {}
    ledger.choose(entry, ["a", "b"], 63.0)  # a is full, and Serve asks again
    ledger.place(entry, "b", 63.0)
    assert [silent(ledger, 68.0), silent(ledger, 68.1)] == [{}, {"b": "silence"}]


def test_a_chunk_that_is_closed_is_not_silent() -> None:
    ledger = Ledger()
    ledger.close(placed(ledger, "a"), 1.0)
    assert silent(ledger, 99.0) == {}


# Backlog


def test_work_in_flight_is_backlog() -> None:
    ledger = Ledger()
    first = opened(ledger, 300.0, deadline_s=1.0)
    opened(ledger, 200.0)
    assert ledger.in_flight == ((300.0, 1.0), (200.0, math.inf))
    assert [ledger.backlog_s(replicas, 0.0) for replicas in (1, 2)] == pytest.approx([0.5, 0.25])
    ledger.close(first, 0.0)
    assert (ledger.busy, ledger.backlog_s(1, 0.0)) == (True, pytest.approx(0.2))


def test_work_in_flight_drains_with_time() -> None:
    ledger = Ledger()
    first = placed(ledger, "r1", 300.0, 1.0)
    placed(ledger, "r1", 200.0, 1.1)
    # The first has run for 150 ms, the second waits behind it.
    assert ledger.backlog_s(1, 1.15) == pytest.approx(0.35)
    # Late, the first counts for nothing more.
    assert ledger.backlog_s(1, 2.0) == pytest.approx(0.2)
    ledger.close(first, 2.0)
    ledger.answered("r1", 0.2, 2.0)
    assert ledger.backlog_s(1, 2.05) == pytest.approx(0.15)


def test_a_chunk_that_ends_without_an_answer_is_no_backlog() -> None:
    ledger = Ledger()
    placed(ledger, "r1", 300.0)
    waiting = placed(ledger, "r1", 200.0, 0.1)
    ledger.close(waiting, 0.1)
    assert ledger.backlog_s(1, 0.1) == pytest.approx(0.2)
    ledger.answered("r1", 0.5, 0.3)
    later = placed(ledger, "r1", 100.0, 0.3)
    ledger.close(placed(ledger, "r1", 40.0, 0.4), 0.4)
    assert ledger.backlog_s(1, 0.4) == pytest.approx(0.4 + 0.1)
    ledger.close(later, 0.4)


def test_what_replicas_report_counts_and_drains_with_time() -> None:
    ledger = Ledger()
    ledger.answered("r1", 0.8, 10.0)
    assert [ledger.backlog_s(1, now_s) for now_s in (10.0, 10.5, 11.0)] == pytest.approx([0.8, 0.3, 0.0])


def test_a_group_is_busy_since_the_first_of_what_is_in_flight_without_a_break() -> None:
    ledger = Ledger()
    first, second = opened(ledger, now_s=1.0), opened(ledger, now_s=2.0)
    ledger.close(first, 3.0)
    assert (ledger.busy, ledger.busy_since_s) == (True, 1.0)
    ledger.close(second, 4.0)
    assert not ledger.busy
    opened(ledger, now_s=9.0)
    assert ledger.busy_since_s == 9.0


def test_what_serve_says_is_kept() -> None:
    ledger = Ledger()
    ledger.update(frozenset("a"), {"a": frozenset("x")}, [("s1", "no such folder")])
    assert (ledger.running, ledger.hosts, ledger.faults) == ({"a"}, {"a": {"x"}}, [("s1", "no such folder")])
    ledger.update(frozenset("b"))
    assert (ledger.running, ledger.hosts, ledger.faults) == ({"b"}, {}, [])
