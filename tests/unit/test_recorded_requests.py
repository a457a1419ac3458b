"""Events and feedback as routers write them, read as the requests of an experiment."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rankfleet.core.events import Feedback, RequestEvent, ShadowEvent
from rankfleet.experiments.measures import measure_of
from rankfleet.experiments.requests import Requests, read_requests
from rankfleet.experiments.shadow_report import agreement_table, agreements, differing_table, most_different
from rankfleet.experiments.store import open_store

ARMS = ("control", "small")


def event(request_id: str, **fields: Any) -> RequestEvent:
    usual: dict[str, Any] = {
        "at_s": 1000.0, "tenant": None, "experiment": "size", "arm": "control", "step": 0, "unit": "00000000000000aa",
        "status": 200, "error": None, "tier": "large", "plan": "large", "reason": "", "queries": 1, "candidates": 3,
        "tokens": 30, "slo_class": None, "budget_ms": 50.0, "predicted_ms": 20.0, "total_ms": 12.5, "degraded": None,
        "met": True, "quality": 0.5, "ranking": [2, 0, 1],
    }  # fmt: skip
    return RequestEvent(request_id=request_id, **usual | fields)


def write(folder: Path, name: str, rows: list[Any]) -> None:
    file = folder / "2026-12-01" / "08" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS) + b"\n" for row in rows))


def read(folder: Path, events: list[RequestEvent], feedback: list[Feedback] = []) -> Requests:  # noqa: B006
    write(folder, "router-1.jsonl", events)
    write(folder, "feedback-router-1.jsonl", feedback)
    return read_requests(open_store(str(folder)), "size", ARMS)


def test_an_answer_and_an_error(tmp_path: Path) -> None:
    failed: dict[str, Any] = {"status": 503, "error": "overloaded", "tier": None, "met": None, "ranking": []}
    found = read(
        tmp_path,
        [
            event("r-1", at_s=1.0),
            event("r-2", at_s=2.0, arm="small", tier="small", unit="00000000000000bb", degraded="fewer", step=1),
            event("r-3", at_s=3.0, **failed),
            event("r-4", at_s=4.0, budget_ms=None, met=None),
        ],
    )
    assert found.arms.tolist() == [0, 1, 0, 0]
    assert [found.unit_ids[unit] for unit in found.units] == [
        "00000000000000aa",
        "00000000000000bb",
        *["00000000000000aa"] * 2,
    ]
    assert found.steps.tolist() == [0, 1, 0, 0]
    assert found.failed.tolist() == [False, False, True, False]
    assert found.values(measure_of("attainment")).tolist()[:3] == [1.0, 1.0, 0.0]
    assert math.isnan(found.values(measure_of("attainment"))[3])
    assert math.isnan(found.values(measure_of("latency_ms"))[2])
    assert found.degraded.tolist() == [False, True, False, False]
    assert found.tiers.tolist() == ["large", "small", "", "large"]
    assert found.routers.tolist() == ["router-1"] * 4


def test_other_experiments_and_arms_that_are_gone_are_left_out(tmp_path: Path) -> None:
    events = [
        event("r-1"),
        event("r-2", experiment="other"),
        event("r-3", arm="gone"),
        event("r-4", experiment=None, arm=None),
    ]
    assert len(read(tmp_path, events)) == 1


def test_clicks_are_ranked_by_the_order_that_was_returned(tmp_path: Path) -> None:
    feedback = [
        Feedback(at_s=5.0, request_id="r-1", clicks=[1, 0]),  # third and second
        Feedback(at_s=6.0, request_id="r-2", clicks=[7]),  # not among those returned
        Feedback(at_s=7.0, request_id="r-3", converted=True),
    ]
    found = read(tmp_path, [event("r-1"), event("r-2"), event("r-3")], feedback)
    assert found.first_clicks.tolist() == [2.0, math.inf, math.inf]
    assert found.values(measure_of("ctr@1")).tolist() == [0, 0, 0]
    assert found.values(measure_of("ctr@10")).tolist() == [1, 0, 0]
    assert found.values(measure_of("conversion")).tolist() == [0, 0, 1]


def test_labels_are_of_documents(tmp_path: Path) -> None:
    found = read(
        tmp_path, [event("r-1"), event("r-2")], [Feedback(at_s=5.0, request_id="r-1", labels={0: 2.0, 1: 1.0})]
    )
    assert found.labelled == {0: ([0.0, 2.0, 1.0], [2.0, 1.0])}
    assert not found.clicks_known
    assert np.isnan(found.values(measure_of("ctr@10"))).all()


def test_feedback_of_another_tenant_is_not_joined(tmp_path: Path) -> None:
    feedback = [Feedback(at_s=5.0, request_id="r-1", tenant="other", clicks=[2])]
    found = read(tmp_path, [event("r-1", tenant="shop")], feedback)
    assert found.first_clicks.tolist() == [math.inf]
    own = [Feedback(at_s=5.0, request_id="r-1", tenant="shop", clicks=[2])]
    assert read(tmp_path, [event("r-1", tenant="shop")], own).first_clicks.tolist() == [1.0]


def test_nothing_was_written_yet(tmp_path: Path) -> None:
    assert len(read(tmp_path, [])) == 0


def shadow(request_id: str, overlap: float, tau: float | None, drift: float | None) -> ShadowEvent:
    return ShadowEvent(
        at_s=1.0, request_id=request_id, tenant=None, experiment="larger", arm="large", step=0, unit="aa", tier="small",
        shadow_tier="large", plan="large", total_ms=100.0, overlap=overlap, tau=tau, drift=drift,
    )  # fmt: skip


def test_the_agreement_of_a_shadow(tmp_path: Path) -> None:
    write(tmp_path, "shadow-router-1.jsonl", [shadow("r-1", 1.0, 0.5, 0.25), shadow("r-2", 0.5, None, None)])
    store = open_store(str(tmp_path))
    (found,) = agreements(store, "larger")
    assert (found.requests, found.overlap, found.tau, found.drift, found.p50_ms) == (2, 0.75, 0.5, 0.25, 100.0)
    assert [each.request_id for each in most_different(store, "larger")] == ["r-2", "r-1"]
    assert agreement_table([found])[1][0][:3] == ["large", "2", "75.0%"]
    assert differing_table(most_different(store, "larger"))[1][0] == ["r-2", "small", "large", "large", "50%", "", ""]
