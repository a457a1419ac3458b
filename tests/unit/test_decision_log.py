"""A logged decision is replayed equal to the last field, whatever it was made from."""

import itertools
import math
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankfleet.core.decisions import Decision, GivenOrder, Plan, Refusal
from rankfleet.core.errors import ConfigError
from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import Routing
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import SIZES, ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.quality import QualityTable
from rankfleet.router.decision_log import LoggedDecision, dumped, line_of, parse_line, request_of
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.service import RankingService
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState
from tests.unit.fakes import FakeGroup, arrivals_of, fleet, word_tokenizer

# 1,000 tokens take 10, 40 and 160 ms.
QUALITIES = {"small": 0.3, "medium": 0.4, "large": 0.5}
TIERS = tuple(
    TierState(name, QUALITIES[name], "g", LatencyModel(0.0, per_token, 0.0, 1.0))
    for name, per_token in (("small", 0.01), ("medium", 0.04), ("large", 0.16))
)
LENGTHS = dict.fromkeys(QUALITIES, Lengths(np.full(10, 100)))
WORK = dict.fromkeys(QUALITIES, Work(10, 1000, 100_000))
CALM = FleetSnapshot(TIERS, {"g": GroupState(1, 0.0)}, 5.0)
BEST_EFFORT_AHEAD = GroupState(
    2, 0.1, ((3.25, 7.5), (40.0, math.inf)), 0.5, 4096, arrivals_of(200.0, 12.5), False, 16384
)
CASCADE = QualityTable(QUALITIES, 0.2, cascades={("small", "large"): {5: 0.45}, ("small", "medium"): {5: 0.38}})
CURVES = QualityTable(QUALITIES, 0.2, {"large": {2: 0.3, 4: 0.45}}, {"medium": {64: 0.39, 80: 0.41}})


def logged(request: PlanRequest, snapshot: FleetSnapshot, now_s: float, decision: Decision) -> LoggedDecision:
    return parse_line(line_of("r-1", request, snapshot, now_s, decision))


@pytest.mark.parametrize(
    ("request_", "snapshot", "kind", "expected"),
    [
        (PlanRequest(WORK, 0.0, 100.0), CALM, Plan, {"tier": "medium", "degraded": None}),
        (
            PlanRequest(WORK, 0.9, 1000.0, lengths=LENGTHS),
            replace(CALM, groups={"g": BEST_EFFORT_AHEAD}),
            Plan,
            # 7.5 of 100 ms of backlog have a deadline: with 40 of `medium`, within its horizon of 52 ms × 3.3 ** 0.63.
            {"stages": (("medium", 10, ("small", "medium", "large")),)},
        ),
        (
            PlanRequest(WORK, 0.0, 110.0, lengths=LENGTHS, max_stages=2),
            replace(CALM, table=CASCADE),
            Plan,
            {"stages": (("small", 10, ("small",)), ("large", 5, ("large",))), "quality": 0.45},
        ),
        (
            PlanRequest(WORK, 0.0, 70.0, lengths=LENGTHS),
            replace(CALM, table=CURVES),
            Plan,
            {"stages": (("large", 4, ("large",)),), "degraded": None},
        ),
        (
            PlanRequest(WORK, 0.0, 40.0, lengths=LENGTHS),
            replace(CALM, table=CURVES),
            Plan,
            {"tier": "medium", "max_tokens": 80},
        ),
        (PlanRequest(WORK, 0.0, 12.0, lengths=LENGTHS), CALM, Plan, {"tier": "small", "degraded": "70 tokens a pair"}),
        (PlanRequest(WORK, 0.0, 12.0), CALM, Plan, {"tier": "small", "degraded": "first 7 of 10"}),
        (PlanRequest({"large": WORK["large"]}, 0.0, 50.0, "arm"), CALM, Plan, {"tier": "large", "fits": False}),
        (PlanRequest(WORK, 0.0), replace(CALM, groups={"g": GroupState(1, 0.0, asleep=True)}), Plan, {"tier": "large"}),
        (
            PlanRequest(WORK, 0.0),
            replace(CALM, tiers=tuple(replace(tier, latency=None) for tier in TIERS)),
            Plan,
            {"predicted_ms": math.inf},
        ),
        (PlanRequest(WORK, 0.0, 5.0), replace(CALM, table=CURVES), GivenOrder, {"quality": 0.2}),
        (PlanRequest(WORK, 0.0, 100.0, min_quality=0.6), CALM, Refusal, {"cause": "quality"}),
        (PlanRequest(WORK, 0.0, 14.0, None, "refuse"), CALM, Refusal, {"cause": "budget"}),
        (
            PlanRequest(WORK, 0.0, 50.0, None, "refuse"),
            replace(CALM, groups={"g": GroupState(1, 0.1)}),
            Refusal,
            {"cause": "load", "retry_after_s": pytest.approx(0.065)},
        ),
    ],
    ids=[
        *("one tier", "late binding", "cascade", "first candidates", "cut pairs", "degraded: cut", "degraded: first"),
        *("pinned", "asleep", "not measured", "order as given", "quality", "budget", "load"),
    ],
)
def test_every_kind_of_decision_is_replayed(
    request_: PlanRequest, snapshot: FleetSnapshot, kind: type, expected: dict[str, object]
) -> None:
    decision = plan(request_, snapshot, 1.0 if request_.arrived_s else 0.0)
    assert type(decision) is kind
    assert {name: getattr(decision, name) for name in expected} == expected
    known = logged(request_, snapshot, 1.0 if request_.arrived_s else 0.0, decision)
    assert known.replayed() == decision
    assert known.differences(decision) == []
    assert known.fleet == snapshot


def test_a_decision_that_is_another_one_is_told_by_its_fields() -> None:
    request = PlanRequest(WORK, 0.0, 100.0)
    decision = plan(request, CALM, 0.0)
    assert isinstance(decision, Plan)
    known = logged(request, CALM, 0.0, replace(decision, predicted_ms=math.nextafter(decision.predicted_ms, 0.0)))
    assert known.differences(known.replayed()) == ["predicted_ms"]
    refused = logged(request, CALM, 0.0, Refusal("load", 0.5, "busy", decision.considered, decision.unloaded))
    assert refused.differences(decision)[:4] == ["kind", "cause", "retry_after_s", "reason"]


# Format 6. If this line cannot be read any more, raise FORMAT and write the line of the new format here.
LINE = (
    b'{"format":6,"request_id":"r-1","now_s":2.5,"request":{"work":{"small":{"pairs":2,"tokens":30,"squares":500}},'
    b'"arrived_s":2.25,"budget_ms":null,"pinned":"name","when_none_fits":"degrade","min_quality":0.0,"lengths":{"small":'
    b'{"tokens":[10,20],"template_tokens":3,"firsts":[0],"ranks":[0],"candidates":2}},"max_stages":2,"may_cut":false,"over_share":false,"cascade":null},"fleet":{"tiers":[{"name":"small",'
    b'"quality":0.3,"group":"g","latency":{"alpha_ms":1.0,"beta_ms":0.5,"gamma_ms":0.01,"p99_factor":1.5}}],"groups":'
    b'{"g":{"replicas":1,"backlog_s":0.25,"in_flight":[[4.5,null]],"busy_since_s":1.5,"whole_tokens":0,"arrivals":'
    b'{"typical_budget_ms":null,"shortest_budget_ms":null,"burst_rates_per_s":[0.0,0.0,0.0,0.0,0.0,0.0,0.0]},"asleep":false,"batch_tokens":64}},"network_ms":2.0,'
    b'"transfer_ms":1.0,"table":null,"rule":{"expected_arrivals":0.5,"horizon":0.26,"horizon_exponent":0.63,'
    b'"arrival_window":0.2,"memory_s":30.0},"start_s":20.0},"table":{"tiers":{"small":0.3},"retriever":0.1,"depths":{"small":{"5":0.25}},'
    b'"tokens":{},"cascades":{"small>large":{"5":0.35}}},"decision":{"kind":"Plan","stages":[{"tier":"small",'
    b'"candidates":2,"tiers":["small"]}],"documents":2,"quality":0.3,"predicted_ms":539.5,"budget_ms":null,"fits":true,'
    b'"reason":"small is asked for by name","max_tokens":null,"degraded":null,"considered":[{"tier":"small",'
    b'"quality":0.3,"predicted_ms":539.5,"verdict":"chosen","how":""}],"unloaded":{"tier":"small",'
    b'"work_ms":[["g",20.46875]]}}}'
)


def test_a_line_of_this_format_is_read_and_written_unchanged() -> None:
    known = parse_line(LINE)
    assert (known.request_id, known.now_s, known.request.arrived_s) == ("r-1", 2.5, 2.25)
    assert known.request.lengths is not None
    assert known.request.lengths["small"].tokens.tolist() == [10, 20]
    assert known.request.documents == 2, "the second is the same as the first"
    group = GroupState(1, 0.25, ((4.5, math.inf),), 1.5, arrivals=arrivals_of(math.inf, 0.0), batch_tokens=64)
    assert known.fleet.groups == {"g": group}
    table = QualityTable({"small": 0.3}, 0.1, {"small": {5: 0.25}}, {}, {("small", "large"): {5: 0.35}})
    assert known.fleet.table == table
    # 250 ms since arrival, 3 of network and transfer, 250 of backlog; 1 + 15 + 5 ms at the mean are 31.5 + 5 at p99.
    assert known.differences(known.replayed()) == []
    assert line_of("r-1", known.request, known.fleet, 2.5, known.replayed()) == LINE


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "is not a logged decision"),
        (b"{}", "is not a logged decision: KeyError('format')"),
        (b"[1]", "is not a logged decision"),
        (LINE[:-1], "is not a logged decision"),
        (LINE[200:], "is not a logged decision"),
        (LINE.replace(b'"backlog_s"', b'"backlog_ms"'), "backlog_ms"),
        (LINE.replace(b'"burst_rates_per_s":[0.0,', b'"burst_rates_per_s":['), "burst_rates_per_s: 6 in place of 7"),
        (LINE.replace(b'"groups":{"g":{', b'"groups":[{"g":{').replace(b"64}}", b"64}}]"), "is not a logged decision"),
        (LINE.replace(b'"format":6', b'"format":2'), "has format 2; this version of rankfleet replays format 6"),
    ],
)
def test_a_damaged_line_or_one_of_another_format_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_line(line)
    assert why in str(refused.value)


async def test_a_line_holds_sizes_and_times_and_nothing_that_the_user_wrote() -> None:
    lines = []
    group = FakeGroup()
    service = RankingService(
        fleet(),
        dict.fromkeys(QUALITIES, word_tokenizer()),
        {"demo": group},
        {"demo": Ledger()},
        on_decision=lambda *decision: lines.append(line_of(*decision)),
    )
    service.fleet.update_latency(dict.fromkeys(QUALITIES, LatencyModel(1.0, 0.01, 0.0)))
    asked = RerankRequest(
        "cat", ["dog bird", "sun"], user="ada", session="tab 7", tenant="tenant-9", slo_ms=500.0, request_id="r-1"
    )
    await service.rank(asked)
    (line,) = lines
    entry = orjson.loads(line)
    assert entry["request_id"] == "r-1"
    # [CLS] cat [SEP] dog bird [SEP]: the lengths are known, not what they are of.
    assert entry["request"]["lengths"]["small"]["tokens"] == [6, 5]
    for private in (b"cat", b"dog", b"bird", b"sun", b"ada", b"tab 7", b"tenant-9"):
        assert private not in line


# What a router may meet: names of tiers, numbers that are finite but for those that say "never" or "not known".
NAMES = ("infinite", "null", "large-1b", "a.b")
amounts = st.floats(0, 1e7)
figures = st.floats(0, 1)
curves = st.dictionaries(st.integers(1, 12) | st.integers(64, 300), figures, min_size=1, max_size=3)


@st.composite
def lengths_of_pairs(draw: st.DrawFn, documents: int, ranks: list[int] | None, candidates: int) -> Lengths:
    passages = draw(st.none() | st.lists(st.integers(1, 3), min_size=documents, max_size=documents))
    pairs = documents if passages is None else sum(passages)
    tokens = draw(st.lists(st.integers(1, 600), min_size=pairs, max_size=pairs))
    firsts = None if passages is None else np.cumsum([0, *passages[:-1]])
    return Lengths(np.array(tokens, np.int32), draw(st.integers(0, 40)), firsts, ranks and np.array(ranks), candidates)


@st.composite
def requests(draw: st.DrawFn, tiers: tuple[str, ...]) -> PlanRequest:
    asked = draw(st.lists(st.sampled_from(tiers), min_size=1, unique=True))
    documents = draw(st.integers(1, 12))
    ranks = draw(st.none() | st.lists(st.integers(0, 5), min_size=documents, max_size=documents))  # several queries
    candidates = max(ranks) + draw(st.integers(1, 3)) if ranks else documents
    lengths = {tier: draw(lengths_of_pairs(documents, ranks, candidates)) for tier in asked}
    return PlanRequest(
        {tier: each.work for tier, each in lengths.items()},
        draw(st.floats(0, 10)),
        draw(st.none() | st.sampled_from((5.0, 20.0, 60.0)) | st.floats(1, 10_000)),
        draw(st.sampled_from(("name", "arm", "default"))) if len(asked) == 1 and draw(st.booleans()) else None,
        draw(st.sampled_from(("degrade", "refuse"))),
        draw(st.sampled_from((0.0, 0.0, 0.25))),
        draw(st.sampled_from((lengths, None))),
        draw(st.sampled_from((2, 2, 1))),
    )


@st.composite
def tables(draw: st.DrawFn, tiers: tuple[str, ...]) -> QualityTable:
    some_tiers = st.sampled_from(tiers)
    return QualityTable(
        {tier: draw(figures) for tier in tiers},
        draw(figures),
        draw(st.dictionaries(some_tiers, curves)),
        draw(st.dictionaries(some_tiers, curves)),
        {pair: draw(curves) for pair in itertools.combinations(tiers, 2)},
    )


rates = st.lists(st.floats(0, 1e4), min_size=len(SIZES), max_size=len(SIZES)).map(tuple)
groups = st.builds(
    GroupState,
    replicas=st.integers(1, 9),
    backlog_s=st.floats(0, 5),
    in_flight=st.lists(st.tuples(amounts, amounts | st.just(math.inf)), max_size=4).map(tuple),
    busy_since_s=st.floats(0, 10),
    whole_tokens=st.sampled_from((0, 1024, 16384)),
    # Without budgets there are no bursts.
    arrivals=st.builds(ArrivalStats, st.floats(1, 1e6), st.floats(1, 1e6), st.tuples(*[st.floats(0, 1e4)] * len(SIZES)))
    | st.just(ArrivalStats()),
    asleep=st.sampled_from((False, False, False, True)),
    batch_tokens=st.integers(64, 16384),
)
models = st.builds(LatencyModel, st.floats(0, 20), st.floats(0, 0.2), st.floats(0, 0.0001), st.floats(1, 2))
rules = st.builds(
    Routing, expected_arrivals=st.floats(0.01, 9), horizon=st.floats(0.01, 9), horizon_exponent=st.floats(0, 0.99)
)


@st.composite
def snapshots(draw: st.DrawFn, tiers: tuple[str, ...]) -> FleetSnapshot:
    known = {name: draw(groups) for name in ("infinite", "g")}
    table = draw(st.none() | tables(tiers))
    return FleetSnapshot(
        tuple(
            TierState(
                tier,
                draw(figures) if table is None else table.tiers[tier],
                draw(st.sampled_from(tuple(known))),
                draw(models | models | st.none()),
            )
            for tier in tiers
        ),
        known,
        draw(st.floats(0, 20)),
        draw(st.floats(0, 20)),
        table,
        draw(rules),
        draw(st.floats(0, 60)),
    )


@st.composite
def decisions(draw: st.DrawFn) -> tuple[PlanRequest, FleetSnapshot, float]:
    tiers = NAMES[: draw(st.integers(2, len(NAMES)))]
    request = draw(requests(tiers))
    return request, draw(snapshots(tiers)), request.arrived_s + draw(st.floats(0, 2))


@settings(max_examples=150, deadline=None)
@given(decisions())
def test_any_decision_is_replayed_to_the_last_field(made_from: tuple[PlanRequest, FleetSnapshot, float]) -> None:
    request, snapshot, now_s = made_from
    decision = plan(request, snapshot, now_s)
    assert plan(request, snapshot, now_s) == decision, "a decision depends on nothing but its arguments"
    known = logged(request, snapshot, now_s, decision)
    assert (known.fleet, known.now_s) == (snapshot, now_s)
    assert list(known.request.work.items()) == list(request.work.items())
    assert known.replayed() == decision
    assert known.differences(decision) == []


def test_a_cascade_that_an_arm_fixes_is_replayed() -> None:
    request = PlanRequest({"small": Work(2, 30, 500)}, 0.0, pinned="arm", cascade=("small", "large", 5))
    assert request_of(orjson.loads(dumped(request))) == request
