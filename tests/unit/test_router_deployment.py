"""A replica of the router, outside of Serve: when it turns to another fleet file, and what it says until then."""

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from rankfleet.cluster import envelope, router_deployment
from rankfleet.cluster.envelope import Envelope, ledger_of
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.fingerprint import settings_name
from rankfleet.core.fleet_file import parse_config
from rankfleet.core.messages import ChunkScores
from rankfleet.estimates.latency import LatencyModel
from rankfleet.experiments.store import open_store
from rankfleet.router.tokenize import model_names
from tests.unit.fakes import fleet, let_threads_run

Router = router_deployment.Router.__mro__[1]  # without what `serve.ingress` puts around it
LATENCY = LatencyModel(1.0, 0.001, 0.0, 1.1)


class Response:
    """What a call of a handle gives: awaited for its result."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self._result


class Handle:
    """The handle of a group whose replicas answer every call at once."""

    is_initialized = True

    def __init__(self, latency: dict[str, LatencyModel]) -> None:
        self._latency = latency
        self.latency = SimpleNamespace(remote=lambda: Response(dict(self._latency)))

    def options(self, **_: str) -> "Handle":
        return self

    def remote(self, sent: Envelope) -> Response:
        sent.entry.replica = "r1"
        scores = np.zeros(len(sent.chunk.pairs), np.float32)
        return Response(ChunkScores(scores, 0.0, 1.0, "r1", 0.0, sent.chunk.tier))


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch) -> dict[str, LatencyModel]:
    """What replicas of the group report: filled by `hosts`."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="router 1"))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(router_deployment, "HOSTED_PERIOD_S", 0.0)
    monkeypatch.setattr(envelope, "LEDGERS", {})
    return {}


def file(**changes: object) -> dict[str, object]:
    return fleet(**changes).model_dump(mode="json")


def hosts(
    latency: dict[str, LatencyModel], *files: dict[str, object], faults: tuple[tuple[str, str], ...] = ()
) -> None:
    """From now on the one replica of the group hosts the models of these files."""
    models = [name for each in files for name in model_names(parse_config(each)).values()]
    latency.update(dict.fromkeys(models, LATENCY))
    ledger_of("demo").update(frozenset({"r1"}), {"r1": frozenset(models)}, faults)


async def started(latency: dict[str, LatencyModel], first: dict[str, object]) -> Any:
    hosts(latency, first)
    router = Router(demo=Handle(latency))
    await router.reconfigure(first)
    return router


async def until(condition: Callable[[dict[str, Any]], bool], router: Any) -> dict[str, Any]:
    """The first state of a router that fulfils the condition."""
    async with asyncio.timeout(20):
        while not condition(state := await router.state()):
            await let_threads_run()
    return state


SMALL, LARGE = file(default_model="small"), file(default_model="large")
NEW_MODEL = file(tiers=fleet().model_dump()["tiers"] | {"small": {"model": "demo/medium", "quality": 0.3}})


async def test_the_first_file_is_served_when_replicas_host_its_models(latency: dict[str, LatencyModel]) -> None:
    router = Router(demo=Handle(latency))
    starting = asyncio.create_task(router.reconfigure(SMALL))
    state = await until(lambda state: state["next"] is not None, router)
    assert (state["config"], state["next"]) == (None, ["demo"])
    assert router.record_autoscaling_stats() == {}
    hosts(latency, SMALL)
    await starting
    state = await router.state()
    assert state == {"router": "router 1", "config": SMALL, "next": None, "newest": settings_name(SMALL), "faults": []}
    reports = [router.record_autoscaling_stats() for _ in range(2)]
    assert [(report["report"], report["set:utilisation"]) for report in reports] == [(1, 0.7), (2, 0.7)]
    assert reports[0]["ejected:demo"] == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tiers": "none of this"}, "tiers"),
        (file(groups={"other": {"tiers": ["small", "medium", "large"]}}), "the file has groups other, but this router"),
    ],
)
async def test_a_first_file_that_is_wrong_raises(
    settings: dict[str, object], reason: str, latency: dict[str, LatencyModel]
) -> None:
    router = Router(demo=Handle(latency))
    with pytest.raises(ConfigError, match=reason):
        await router.reconfigure(settings)
    assert (await router.state())["config"] is None


async def test_a_live_setting_changes_without_waiting_for_replicas(latency: dict[str, LatencyModel]) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure(LARGE)
    assert (await router.state())["config"] == SMALL, "it is prepared beside what is served"
    await until(lambda state: state["config"] == LARGE and state["next"] is None, router)


async def test_a_file_with_a_new_model_waits_until_replicas_host_it(latency: dict[str, LatencyModel]) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure(NEW_MODEL)
    state = await until(lambda state: state["next"] is not None, router)
    assert (state["config"], state["next"]) == (SMALL, ["demo"])
    hosts(latency, SMALL, NEW_MODEL)
    await until(lambda state: state["config"] == NEW_MODEL and state["next"] is None, router)


async def test_a_wrong_file_keeps_the_old_one_and_says_why_until_a_right_one_comes(
    latency: dict[str, LatencyModel],
) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure({"tiers": "none of this"})
    state = await router.state()
    assert (state["config"], state["next"]) == (SMALL, None)
    (fault,) = state["faults"]
    assert fault.startswith("config: tiers: ")
    await router.reconfigure(SMALL)
    assert (await router.state())["faults"] == []


async def test_a_wrong_file_does_not_disturb_one_that_waits_for_replicas(latency: dict[str, LatencyModel]) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure(NEW_MODEL)
    await until(lambda state: state["next"] == ["demo"], router)
    await router.reconfigure({"tiers": "none of this"})
    assert (await router.state())["next"] == ["demo"]
    hosts(latency, SMALL, NEW_MODEL)
    state = await until(lambda state: state["config"] == NEW_MODEL and state["next"] is None, router)
    assert len(state["faults"]) == 1


async def test_files_that_cannot_be_read_are_reported(latency: dict[str, LatencyModel], tmp_path: Path) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure(file(profile=str(tmp_path / "none.json")))
    state = await until(lambda state: bool(state["faults"]), router)
    assert (state["config"], state["next"]) == (SMALL, None)
    assert "none.json" in state["faults"][0]


async def test_a_newer_file_replaces_one_that_waits_for_replicas(latency: dict[str, LatencyModel]) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure(NEW_MODEL)
    await until(lambda state: state["next"] == ["demo"], router)
    await router.reconfigure(LARGE)
    state = await until(lambda state: state["config"] == LARGE and state["next"] is None, router)
    assert state["faults"] == []


async def test_a_file_that_is_taken_back_is_served_again(latency: dict[str, LatencyModel]) -> None:
    router = await started(latency, SMALL)
    hosts(latency, SMALL, NEW_MODEL)
    for each in (NEW_MODEL, SMALL):
        await router.reconfigure(each)
        await until(lambda state, each=each: state["config"] == each and state["next"] is None, router)  # type: ignore[misc]


async def test_faults_of_replicas_are_reported_for_the_newest_file_only(latency: dict[str, LatencyModel]) -> None:
    def name(settings: dict[str, object]) -> str:
        config: FleetConfig = parse_config(settings)
        return settings_name(config.for_groups)

    router = await started(latency, SMALL)
    hosts(latency, SMALL, faults=((name(NEW_MODEL), "tier small: no such folder"),))
    assert (await router.state())["faults"] == []
    await router.reconfigure(NEW_MODEL)
    state = await until(lambda state: bool(state["faults"]), router)
    assert (state["config"], state["faults"]) == (SMALL, ["tier small: no such folder"])


async def test_events_are_written_from_the_file_on_that_names_a_folder_until_the_router_ends(
    latency: dict[str, LatencyModel], tmp_path: Path
) -> None:
    router = await started(latency, SMALL)
    with_events = file(events={"folder": str(tmp_path / "events")})
    await router.reconfigure(with_events)
    await until(lambda state: state["config"] == with_events, router)
    app = router.__serve_build_asgi_app__()
    body = {"query": "a cat", "documents": ["a dog", "a bird"]}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        said = {"request_id": "r-1", "converted": True}
        replies = [
            await http.post("/v1/rerank", json=body, headers={"x-request-id": "r-1"}),
            await http.post("/v1/rerank", json=body | {"model": "none"}, headers={"x-request-id": "r-2"}),
            await http.post("/v1/feedback", json=said),
        ]
    assert [reply.status_code for reply in replies] == [200, 404, 202]
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.shutdown.complete"]
    assert {path.name for path in tmp_path.rglob("*.*")} == {"router 1.parquet", "feedback-router 1.parquet"}
    store = open_store(str(tmp_path / "events"))
    assert store.sql("SELECT request_id, status, router FROM events ORDER BY 1").fetchall() == [
        ("r-1", 200, "router 1"),
        ("r-2", 404, "router 1"),
    ]
    assert store.sql("SELECT request_id, converted FROM feedback").fetchall() == [("r-1", True)]


async def test_a_file_whose_events_have_no_place_is_refused(latency: dict[str, LatencyModel]) -> None:
    router = await started(latency, SMALL)
    await router.reconfigure(file(events={"folder": "/dev/null/events"}))
    state = await until(lambda state: bool(state["faults"]), router)
    assert (state["config"], state["faults"]) == (SMALL, ["events.folder: /dev/null/events: Not a directory"])
