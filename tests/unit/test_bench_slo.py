"""The figures of `rankfleet bench slo`."""

import pytest

from rankfleet.bench.slo import cell_figures, summary
from rankfleet.bench.traffic import Call, Reply

CALL = Call(0.0, 0, 50.0, b"")


def reply(took_ms: float, quality: float = 0.5, scored: bool = True, status: int = 200) -> Reply:
    timing = {"transfer": 4.0, "infer": took_ms - 8.0, "total": took_ms - 2.0}
    return Reply(CALL, status, took_ms, "large" if scored else "none", quality, scored, timing_ms=timing)


def test_a_budget_is_met_by_the_clients_clock_scored_or_not() -> None:
    replies = [reply(49.9), reply(50.1), reply(3.0, 0.0, scored=False), reply(1.0, scored=False, status=429)]
    figures = cell_figures(replies, 0.5)
    assert (figures["met"], figures["late"], figures["unscored"]) == (0.5, 1, 2)
    assert figures["tiers"] == {"large": 2}


def test_only_answers_that_leave_work_out_should_use_their_time() -> None:
    replies = [reply(20.0, 0.5), reply(40.0, 0.3), reply(45.0, 0.4), reply(2.0, 0.0, scored=False)]
    assert cell_figures(replies, 0.5)["used"] == pytest.approx(0.85)
    assert cell_figures(replies[:1], 0.5)["used"] is None


def test_steps_and_what_lies_between_client_and_router() -> None:
    figures = summary([((20, 50), reply(30.0)), ((100, 50), reply(60.0))], {20: 0.5, 100: 0.5})
    assert (figures["requests"], figures["met"], figures["outside_p50_ms"]) == (2, 0.5, 2.0)
    assert (figures["steps_p50_ms"]["infer"], figures["steps_p50_ms"]["queue"]) == (37.0, 0.0)
    assert list(figures["cells"]) == ["20 documents in 50 ms", "100 documents in 50 ms"]
