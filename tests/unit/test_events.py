"""The event of a request: one for each that is answered, refused or failed, with its experiment and without texts."""

import asyncio
import dataclasses
from typing import Any

import pytest

from rankfleet.core.errors import Infeasible, RankfleetError, TooLarge, Unavailable, UnknownModel
from rankfleet.core.events import RequestEvent
from rankfleet.core.messages import Chunk, ChunkScores, RerankRequest
from rankfleet.core.timing import Timing
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from tests.unit.fakes import DAWN_S, FakeClock, FakeGroup, service

EXPERIMENT = {
    "arms": {"control": {"weight": 1}, "small": {"weight": 0, "model": "small"}},
    "schedule": [{"at": "2026-11-30T00:00:00Z", "weights": {"control": 0, "small": 1}}],
}
# The first 16 hex digits of `printf 'size\0001\000u-1' | sha256sum`.
U1 = "8a785ada3e690645"


def listening(group: FakeGroup | None = None, **changes: Any) -> tuple[RankingService, list[RequestEvent]]:
    events: list[RequestEvent] = []
    one = service(group, on_event=events.append, **changes)
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    return one, events


async def event_of(request: RerankRequest, error: type[Exception] | None = None, **changes: Any) -> RequestEvent:
    """The one event of one request, which ends in this error."""
    one, events = listening(**changes)
    if error is None:
        await one.rank(request)
    else:
        with pytest.raises(error):
            await one.rank(request)
    (event,) = events
    return event


async def test_an_answer_makes_an_event_with_all_that_the_reply_says() -> None:
    request = RerankRequest(
        "cat", ["a dog", "a", "a dog is an animal"], slo_ms=500, user="u-1", tenant="shop", request_id="r-1"
    )
    one, events = listening(experiments={"size": EXPERIMENT})
    clock = one.clock
    assert isinstance(clock, FakeClock)
    ranking = await one.rank(request, Timing(clock.now - 0.025))
    assert events == [
        RequestEvent(
            at_s=DAWN_S,
            request_id="r-1",
            tenant="shop",
            experiment="size",
            arm="small",
            step=1,
            unit=U1,
            tier="small",
            plan="small",
            reason="small is given by the experiment",
            candidates=3,
            tokens=20,  # three documents of 2, 1 and 5 words with 4 others each
            budget_ms=500,
            predicted_ms=ranking.plan.predicted_ms,
            total_ms=pytest.approx(25.0),
            met=True,
            quality=0.3,
            ranking=[2, 0, 1],
        )
    ]


async def test_the_order_as_given_has_no_tier() -> None:
    event = await event_of(RerankRequest("cat", ["a", "a dog"], slo_ms=5))
    assert (event.status, event.tier, event.plan, event.tokens, event.ranking) == (200, None, "as given", 0, [0, 1])
    assert event.degraded == "the order as given"
    assert (event.experiment, event.arm, event.unit, event.step) == (None, None, None, 0)


async def test_a_cascade_and_what_each_stage_scores_are_told_in_a_few_words() -> None:
    cascade = {"first": "small", "second": "large", "candidates": 2}
    arms = {"a": {"weight": 1, "cascade": cascade}}
    event = await event_of(
        RerankRequest("cat", ["a dog", "a", "a dog is an animal"], user="u"), experiments={"size": {"arms": arms}}
    )
    assert (event.tier, event.plan) == ("large", "small > large on 2")


async def test_documents_of_several_queries_are_numbered_in_one_row() -> None:
    request = RerankRequest("cat", ["a", "a dog"], queries=("cat", "dog"), top_n=1)
    event = await event_of(request)
    assert (event.queries, event.candidates, event.ranking) == (2, 4, [1, 3])


async def test_documents_are_numbered_as_they_were_sent() -> None:
    event = await event_of(RerankRequest("cat", ["a", "a dog"], scores=[0.1, 0.2], slo_ms=5))
    assert event.ranking == [1, 0], "in the retriever's order"


async def test_at_most_100_documents_are_listed() -> None:
    event = await event_of(RerankRequest("cat", ["a"] * 150))
    assert (event.candidates, event.ranking) == (150, list(range(100)))


async def test_a_refusal_makes_an_event_with_its_arm_and_its_reason() -> None:
    request = RerankRequest("cat", ["a"] * 3, slo_ms=5, slo_class="strict", user="u-1", request_id="r-2")
    event = await event_of(
        request,
        Infeasible,
        experiments={"size": EXPERIMENT},
        slo_classes={"strict": {"slo_ms": 50, "when_none_fits": "refuse"}},
    )
    assert dataclasses.replace(event, reason="") == RequestEvent(
        at_s=DAWN_S,
        request_id="r-2",
        experiment="size",
        arm="small",
        step=1,
        unit=U1,
        status=422,
        error="infeasible",
        candidates=3,
        slo_class="strict",
        budget_ms=5,
        total_ms=0.0,
    )
    assert event.reason.endswith("allow more time or send fewer documents")


@pytest.mark.parametrize(
    ("request_", "error", "status", "code"),
    [
        (RerankRequest("secret", ["a"], slo_class="secret", user="u-1"), UnknownModel, 404, "unknown_model"),
        (RerankRequest("secret", ["a"] * 1001, user="u-1"), TooLarge, 413, "too_large"),
    ],
)
async def test_what_is_refused_before_its_arm_decides_anything_has_no_arm_and_is_not_quoted(
    request_: RerankRequest, error: type[Exception], status: int, code: str
) -> None:
    event = await event_of(request_, error, experiments={"size": EXPERIMENT})
    assert (event.arm, event.status, event.error, event.reason) == (None, status, code, "")
    assert "secret" not in str(event)


class Broken(FakeGroup):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (Unavailable("no replica runs"), 503, "unavailable", "no replica runs"),
        (RuntimeError("the text was: secret"), 500, "internal", ""),
    ],
)
async def test_a_failure_makes_an_event(error: BaseException, status: int, code: str, reason: str) -> None:
    one, events = listening(Broken(error), experiments={"size": EXPERIMENT})
    with pytest.raises(type(error)):
        await one.rank(RerankRequest("cat", ["a"], user="u-1"))
    (event,) = events
    assert (event.arm, event.status, event.error, event.reason) == ("small", status, code, reason)
    assert (event.tier, event.plan, event.met, event.quality, event.ranking) == (None, "", None, None, ())


async def test_what_its_client_breaks_off_counts_for_no_arm() -> None:
    one, events = listening(Broken(asyncio.CancelledError()), experiments={"size": EXPERIMENT})
    with pytest.raises(asyncio.CancelledError):
        await one.rank(RerankRequest("cat", ["a"], user="u-1"))
    assert [(event.experiment, event.arm, event.status, event.error) for event in events] == [
        (None, None, 499, "client_gone")
    ]


async def test_probes_warm_ups_and_plans_make_none() -> None:
    one, events = listening()
    await one.probe()
    await one.warm_up("small")
    await one.explain(RerankRequest("cat", ["a"]))
    assert events == []


@pytest.mark.parametrize("request_", [RerankRequest("cat", ["a"]), RerankRequest("cat", ["a"], model="none")])
async def test_an_error_of_the_listener_changes_nothing(
    request_: RerankRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: RequestEvent) -> None:
        raise OSError("disk full")

    outcomes = []
    for listener in (None, broken):
        try:
            outcomes.append([d.index for d in (await service(on_event=listener).rank(request_)).documents])
        except RankfleetError as error:
            outcomes.append([error.code])
    assert outcomes[0] == outcomes[1]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError]
