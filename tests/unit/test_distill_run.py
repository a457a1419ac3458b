"""What `rankfleet distill` decides without a model: options, recipe, manifest, the card, and a server as teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.core.fleet_file import read_config
from rankfleet.distill.card import fleet_file, tier_name
from rankfleet.distill.job import Job, check_job, check_scores
from rankfleet.distill.manifest import digest_of, resume_or_begin
from rankfleet.distill.recipe import fitting_batch, micro_batch, published_recipe
from rankfleet.distill.sources import Group
from rankfleet.distill.teacher import ServerTeacher, score_groups, with_scores


@pytest.mark.parametrize(
    ("options", "teacher", "message"),
    [
        ({}, "t", "either --data with pairs, or --documents"),
        ({"data": "f", "documents": "f"}, "t", "either --data with pairs, or --documents"),
        (
            {"data": "f", "queries": "f", "top_k": 9},
            "t",
            "--queries and --top-k would do nothing: --data has the pairs",
        ),
        ({"data": "f", "margin": 0.0}, "t", "--margin would do nothing"),
        ({"documents": "f", "limit": 5}, "t", "--limit would do nothing"),
        ({"documents": "f"}, None, "name the reranker that scores them with --teacher"),
        ({"documents": "f", "queries": "f", "questions": 5}, "t", "--questions would do nothing"),
        ({"data": "f", "held_out": 0.0, "patience": 2}, None, "--patience would do nothing"),
        ({"data": "nothing"}, None, "there is no file nothing"),
    ],
)
def test_options_that_contradict_or_do_nothing_are_refused(
    options: dict[str, Any], teacher: str | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "f").touch()
    paths = {
        key: tmp_path / value if value == "f" else Path(value)
        for key, value in options.items()
        if str(value) in ("f", "nothing")
    }
    with pytest.raises(InvalidRequest, match=message):
        check_job(Job("demo/small", tmp_path / "out", **{**options, **paths}), teacher)


def test_scores_and_a_teacher_are_one_too_many_and_neither_is_one_too_few() -> None:
    check_scores(Path("f"), scored=True, teacher=None)
    check_scores(Path("f"), scored=False, teacher="t")
    with pytest.raises(InvalidRequest, match="have scores, so --teacher would do nothing"):
        check_scores(Path("f"), scored=True, teacher="t")
    with pytest.raises(InvalidRequest, match="have no scores: name the reranker"):
        check_scores(Path("f"), scored=False, teacher=None)


@pytest.mark.parametrize(("millions", "rate", "batch"), [(17, 2.4e-4, 1024), (150, 1.5e-5, 192), (1000, 3e-6, 512)])
def test_the_published_settings_by_size(millions: int, rate: float, batch: int) -> None:
    recipe = published_recipe(millions * 1_000_000)
    assert (recipe.learning_rate, recipe.batch) == (rate, batch)


@pytest.mark.parametrize(
    ("pairs", "epochs", "batch"), [(143_000_000, 1.0, 1024), (100_000, 1.0, 128), (50_000, 2.0, 128), (900, 1.0, 32)]
)
def test_few_pairs_are_trained_on_in_smaller_batches(pairs: int, epochs: float, batch: int) -> None:
    assert fitting_batch(1024, pairs, epochs) == batch


def test_gradients_are_accumulated_over_equal_parts_of_a_batch() -> None:
    assert [micro_batch(batch, 16) for batch in (1024, 192, 40, 5, 17)] == [16, 16, 10, 5, 1]


MANIFEST = {"data": {"data": "12"}, "teacher": "demo/large", "student": "s", "settings": {"seed": 1, "layers": None}}


def test_a_run_is_resumed_with_the_same_and_refused_with_anything_else(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert not resume_or_begin(work, MANIFEST)
    assert resume_or_begin(work, MANIFEST)
    other = MANIFEST | {"teacher": None, "settings": {"seed": 2, "layers": 3}}
    with pytest.raises(InvalidRequest) as refused:
        resume_or_begin(work, other)
    assert str(refused.value).splitlines()[1:4] == [
        "  teacher: demo/large then, none now",
        "  settings.seed: 1 then, 2 now",
        "  settings.layers: none then, 3 now",
    ]
    assert f"remove {work}" in str(refused.value)


def test_the_digest_of_data_is_that_of_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    (tmp_path / "b.jsonl").write_text("x")
    before = digest_of(tmp_path / "a.jsonl"), digest_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert before[0] == digest_of(tmp_path / "b.jsonl") != before[1]
    (tmp_path / "b.jsonl").write_text("y")
    assert before[0] == digest_of(tmp_path / "a.jsonl") != digest_of(tmp_path / "b.jsonl")
    assert before[1] != digest_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_the_fleet_file_of_a_student_is_valid_and_names_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my tier"
    folder.mkdir()
    assert tier_name(folder) == "my-tier"
    (folder / "fleet.yaml").write_text(fleet_file(folder))
    config = read_config(folder / "fleet.yaml")
    assert list(config.tiers) == ["my-tier"]
    assert config.tiers["my-tier"].model == str(folder)
    assert yaml.safe_load(fleet_file(folder))["tiers"]["my-tier"]["quality"] == 0.0


MODELS = [
    {"id": "auto", "kind": "planner"},
    {"id": "small", "kind": "tier", "model": "demo/small", "quality": 0.4},
    {"id": "large", "kind": "tier", "model": "demo/large", "quality": 0.5},
]


class FakeServer:
    """Scores by length. refusals: replies that come first; most: documents that it takes in one request."""

    def __init__(self, *refusals: httpx.Response, most: int = 1000) -> None:
        self.refusals, self.most = list(refusals), most
        self.bodies: list[dict[str, Any]] = []
        self.waited: list[float] = []
        self.change: Callable[[dict[str, Any]], None] = lambda reply: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": MODELS})
        if self.refusals:
            return self.refusals.pop(0)
        body = json.loads(request.content)
        if len(body["documents"]) > self.most:
            return error(413, f"at most {self.most} documents")
        self.bodies.append(body)
        results = [{"index": i, "logit": float(len(text))} for i, text in enumerate(body["documents"])]
        reply = {"results": results[::-1], "rankfleet": {"tier": body["model"], "reason": "pinned"}}
        self.change(reply)
        return httpx.Response(200, json=reply)

    def teacher(self, url: str = "http://10.0.0.5:8000/") -> ServerTeacher:
        return ServerTeacher(url, httpx.Client(transport=httpx.MockTransport(self)), self.waited.append)


def error(status: int, message: str, **headers: str) -> httpx.Response:
    content = {"error": {"code": "x", "message": message}}
    return httpx.Response(
        status, json=content, headers={key.replace("_", "-"): value for key, value in headers.items()}
    )


def test_a_server_scores_with_its_best_tier_or_the_one_that_is_named() -> None:
    server = FakeServer()
    teacher = server.teacher()
    assert teacher.identity == "http://10.0.0.5:8000#large, demo/large"
    assert teacher.score("q", ["a", "bbb"]).tolist() == [1.0, 3.0]
    assert server.bodies == [
        {"query": "q", "documents": ["a", "bbb"], "model": "large", "slo_ms": 600_000.0, "long_documents": "truncate"}
    ]
    assert server.teacher("http://10.0.0.5:8000#small").tier == "small"
    with pytest.raises(InvalidRequest, match="no such tier; it has small, large"):
        server.teacher("http://10.0.0.5:8000#huge")


def test_documents_are_sent_in_batches_that_are_halved_until_the_server_takes_them() -> None:
    server = FakeServer(most=60)
    texts = ["x" * (i % 7) for i in range(130)]
    assert server.teacher().score("q", texts).tolist() == [float(i % 7) for i in range(130)]
    assert [len(body["documents"]) for body in server.bodies] == [50, 50, 30]
    with pytest.raises(RankfleetError, match="answers 413: at most 0 documents"):
        FakeServer(most=0).teacher().score("q", ["x", "y"])


def test_an_overloaded_server_is_asked_again_when_it_says() -> None:
    server = FakeServer(
        error(429, "busy", retry_after="7"), error(429, "busy", retry_after_ms="250"), error(503, "no replica")
    )
    assert server.teacher().score("q", ["x"]).tolist() == [1.0]
    assert server.waited == [7.0, 0.25, 4.0]


def test_a_server_that_stays_overloaded_is_given_up_with_its_message() -> None:
    server = FakeServer(*[error(429, "all replicas are busy")] * 8)
    with pytest.raises(RankfleetError, match="answers 429: all replicas are busy; gave up after 8 tries"):
        server.teacher().score("q", ["x"])
    assert server.waited == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_server_that_refuses_is_not_asked_again() -> None:
    server = FakeServer(error(422, "query is too long"))
    with pytest.raises(RankfleetError, match="answers 422: query is too long"):
        server.teacher().score("q", ["x"])
    assert server.waited == []


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: reply["rankfleet"].update(tier="small", reason="degraded"),
        lambda reply: reply["results"][0].update(logit=None),
        lambda reply: reply["results"].pop(),
    ],
)
def test_scores_that_the_tier_did_not_give_are_refused(change: Callable[[dict[str, Any]], None]) -> None:
    server = FakeServer()
    server.change = change
    with pytest.raises(RankfleetError, match="where all were asked of large"):
        server.teacher().score("q", ["x", "y"])


def test_an_address_where_no_server_answers_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    waited: list[float] = []
    with pytest.raises(
        RankfleetError, match=r"http://nowhere/v1/models does not answer .ConnectError: connection refused"
    ):
        ServerTeacher("http://nowhere", httpx.Client(transport=httpx.MockTransport(refuse)), waited.append)
    assert waited == []
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    with pytest.raises(RankfleetError, match="is a server that reranks there"):
        ServerTeacher("http://page", httpx.Client(transport=page), waited.append)


GROUPS = [Group("one", ("a", "bb"), "one"), Group("two", ("ccc",), "two"), Group("three", ("", "d"), "three")]


@pytest.mark.parametrize("left", [0, 1, 11, 17, 24])
def test_scoring_goes_on_after_the_last_whole_line(left: int, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done: list[int] = []
    score_groups(FakeServer().teacher(), GROUPS, whole, done.append)
    assert whole.read_text() == "[1.0, 2.0]\n[3.0]\n[0.0, 1.0]\n"
    assert done == [0, 1, 2, 3]
    cut.write_bytes(whole.read_bytes()[:left])
    server = FakeServer()
    score_groups(server.teacher(), GROUPS, cut, lambda _: None)
    assert cut.read_bytes() == whole.read_bytes()
    assert len(server.bodies) == 3 - whole.read_bytes()[:left].count(b"\n")
    assert [group.scores for group in with_scores(GROUPS, cut)] == [[1.0, 2.0], [3.0], [0.0, 1.0]]


def test_scores_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    class Broken:
        def score(self, query: str, documents: Any) -> np.ndarray:
            return np.full(len(documents), np.nan)

    with pytest.raises(RankfleetError, match="scores of the query 'one' are not finite"):
        score_groups(Broken(), GROUPS, tmp_path / "scores", lambda _: None)
    assert (tmp_path / "scores").read_text() == ""
