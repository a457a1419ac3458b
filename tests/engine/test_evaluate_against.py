"""`rankfleet evaluate` beside rerankers of others, ended and taken up again, and on to a recommendation."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rankfleet.cli import app, evaluate, recommend  # noqa: F401  (registers the verbs)
from rankfleet.core.errors import ConfigError, RankfleetError
from rankfleet.core.fleet_file import read_config
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.estimates.quality import fleet_quality
from rankfleet.evaluate.cross_encoder import CrossEncoderProcess
from rankfleet.evaluate.kept_scores import Question
from rankfleet.evaluate.rankers import TIMED, EngineRanker
from rankfleet.retrieval.bm25 import Hit
from tests.engine.checkpoints import small_bert
from tests.engine.test_evaluate import write_beir

TEXTS = ["The cat sleeps in the barn.", "In winter the horse eats hay.", "hay " * 400, "", "Geese fly south."]
QUESTIONS = [
    Question("farm", f"q{i}", text, [Hit(f"d{j}", TEXTS[j], 0.0) for j in range(i, len(TEXTS))])
    for i, text in enumerate(("where does the cat sleep", "what does the horse eat", "do geese fly"))
]
SPEED = ["--tiers", "small", "--dtype", "float32", "--threads", "1"]


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_stream_of_queries_has_the_scores_of_each_alone() -> None:
    reranker = Reranker.load(find_checkpoint("demo/small"), "float32")
    tokens = TokenCache(1_000_000)
    threads: list[bool] = []
    alone, stream = (
        EngineRanker("small", "", lambda: reranker, tokens, Counter(farm=before), threads.append, replicas=2.0)
        for before in (0, TIMED)
    )
    one, all_together = alone.score(QUESTIONS), stream.score(QUESTIONS)
    assert [each.timed for each in one + all_together] == [True] * 3 + [False] * 3
    assert threads == [True, True, False]
    for left, right in zip(one, all_together, strict=True):
        np.testing.assert_allclose(left.scores, right.scores, rtol=0, atol=1e-5)
    # 12 pairs share the time of the stream equally
    assert all_together[0].seconds / 5 == pytest.approx(all_together[2].seconds / 3)
    assert len(tokens) == len(TEXTS), "each text was tokenized once"


class Service(BaseHTTPRequestHandler):
    """Reranks as Cohere and as Text Embeddings Inference, by the words that query and document share. Every second
    request is asked to come back; the key is `secret`."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.paths.append(self.path)
        if self.path == "/v2/rerank" and self.headers.get("authorization") != "Bearer secret":
            return self.answer(401, {"message": "invalid api token"})
        if len(server.paths) % 2:
            return self.answer(429, {"message": "busy"}, {"retry-after-ms": "1"})
        texts, query = body.get("texts") or body["documents"], set(body["query"].split())
        scores = [(i, len(query & set(text.strip(".").split())) / 10) for i, text in enumerate(texts)]
        scores.sort(key=lambda each: -each[1])
        if self.path == "/rerank":
            return self.answer(200, [{"index": i, "score": score} for i, score in scores])
        results = [{"index": i, "relevance_score": score} for i, score in scores]
        return self.answer(200, {"results": results, "meta": {"billed_units": {"search_units": 1}}})

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.paths, server.url = [], f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_rerankers_of_others_stand_in_the_same_table(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, figures, picture = write_beir(tmp_path / "farm"), tmp_path / "figures.json", tmp_path / "all.png"
    monkeypatch.setenv("MY_KEY", "secret")
    cohere = f"cohere:{service.url}#rerank-v9,key=MY_KEY,usd_per_1000_searches=2"
    local = f"sentence-transformers:{small_bert(tmp_path / 'mine')},name=now"
    against = ("--against", cohere, "--against", f"tei:{service.url},name=tei", "--against", local)
    files = ("--json", figures, "--plot", picture, "--usd-per-hour", "1")
    result = run("evaluate", "--data", data, *SPEED, *against, *files)
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text())
    assert list(written["against"]) == ["rerank-v9", "tei", "now"]
    assert written["against"]["rerank-v9"]["usd_per_1000"] == 2.0
    assert "usd_per_1000" not in written["against"]["tei"]
    assert written["tiers"]["small"]["usd_per_1000"] > 0
    # Both rank by the same rule, and both are asked about every query.
    assert written["by_query"]["against"]["rerank-v9"] == written["by_query"]["against"]["tei"]
    assert (service.paths.count("/v2/rerank"), service.paths.count("/rerank")) == (48, 48)
    assert {"less_rerank-v9", "less_tei", "less_now"} < set(written["compared"]["small"])
    assert {(each["plan"], each["kind"]) for each in written["plans"]} == {
        *{("small", "tier"), ("rerank-v9", "compared with"), ("tei", "compared with"), ("now", "compared with")}
    }
    assert written["against"]["now"]["p99_ms"] >= written["against"]["now"]["p50_ms"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setenv("MY_KEY", "wrong")
    refused = run("evaluate", "--data", data, *SPEED, "--against", cohere)
    assert "401: invalid api token; it does not accept the key in the environment variable MY_KEY" in str(
        refused.exception
    )


def test_sentence_transformers_scores_as_the_engine_does(tmp_path: Path) -> None:
    model = small_bert(tmp_path / "mine")
    process = CrossEncoderProcess(str(model), threads=1)
    try:
        scored = process.timed(QUESTIONS[0].text, TEXTS)
    finally:
        process.close()
    ours = Reranker.load(Checkpoint(model), "float32").score(QUESTIONS[0].text, TEXTS)
    np.testing.assert_allclose(scored.scores, ours, rtol=0, atol=1e-4)
    assert scored.seconds > 0
    assert "sentence-transformers" in process.identity
    with pytest.raises(RankfleetError, match="nowhere, run by Sentence Transformers: "):
        CrossEncoderProcess(str(tmp_path / "nowhere"), threads=1)


def test_a_run_goes_on_from_the_scores_that_are_kept(tmp_path: Path) -> None:
    data, figures, scores = write_beir(tmp_path / "farm"), tmp_path / "q.json", tmp_path / "q.scores.jsonl"
    asked = ("evaluate", "--data", data, *SPEED, "--json", figures)
    assert run(*asked).exit_code == 0
    first, whole = json.loads(figures.read_text()), scores.read_text().splitlines(keepends=True)
    assert len(whole) == 1 + 24
    scores.write_text("".join(whole[:10]) + whole[10][:40])  # as a killed run leaves it
    assert run(*asked).exit_code == 0
    assert scores.read_text().splitlines(keepends=True)[:10] == whole[:10]
    again = json.loads(figures.read_text())
    assert again["by_query"] == first["by_query"]
    other = run(*asked[:-4], "--dtype", "bfloat16", "--json", figures)
    assert isinstance(other.exception, ConfigError), other.output
    assert "has scores of another small (weights " in str(other.exception)
    (data / "queries.jsonl").write_text((data / "queries.jsonl").read_text().replace("eat", "drink"))
    assert "of farm with another text or other candidates; delete it" in str(run(*asked).exception)


def test_minutes_say_why_scoring_ended(tmp_path: Path) -> None:
    data, figures = write_beir(tmp_path / "farm"), tmp_path / "q.json"
    asked = ("evaluate", "--data", data, "--tiers", "small,large", "--dtype", "float32", "--json", figures)
    result = run(*asked, "--minutes", 5, "--max-loss", 1)
    assert result.exit_code == 0, result.output
    sample = json.loads(figures.read_text())["sample"]
    assert (sample["ended"], sample["queries"], sample["of"], sample["cannot_tell"]) == ("enough", 20, 24, {})
    assert "20 of 24 queries were enough, and scoring ended there" in result.output


def test_from_a_folder_of_judged_queries_to_a_fleet_that_runs_the_choice(tmp_path: Path) -> None:
    data, figures, fleet = write_beir(tmp_path / "farm"), tmp_path / "q.json", tmp_path / "chosen.yaml"
    measured = run("evaluate", "--data", data, "--fit-fusion", "--json", figures, "--plot", tmp_path / "q.png")
    assert measured.exit_code == 0, measured.output
    chosen = run("recommend", "--from", figures, "--max-loss", "0.3", "--write", fleet, "--plot", tmp_path / "c.png")
    assert chosen.exit_code == 0, chosen.output
    assert "on 24 queries of farm, fused with the order of bm25" in chosen.output.replace("\n", " ")
    config, quality = read_config(fleet), json.loads(figures.read_text())["weights"]
    assert {*config.tiers} <= {*quality}
    assert fleet_quality(config).weights == quality
