"""The commands of docs/distilling.md run as they stand there, on a tiny corpus."""

import json
import re
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rankfleet.cli.distill
import rankfleet.cli.evaluate  # noqa: F401  (registers the verbs)
from rankfleet.cli import app

PAGE = Path(__file__).parents[2] / "docs/distilling.md"
COMMANDS = re.findall(r"^(rankfleet .+)$", "".join(re.findall(r"```bash\n(.+?)```", PAGE.read_text(), re.DOTALL)), re.M)
SERVER = "http://10.0.0.5:8000"
TOPICS = ["vaccines", "castles", "rivers", "engines", "libraries", "proteins", "storms", "bridges"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that lists one tier and scores by the words that query and document share."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({"data": [{"id": "large", "kind": "tier", "model": "m", "quality": 0.5}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            words = set(body["query"].lower().split())
            shared = [len(words & set(text.lower().split())) for text in body["documents"]]
            results = [{"index": i, "logit": float(count)} for i, count in enumerate(shared)]
            self.reply({"results": results, "rankfleet": {"tier": body["model"], "reason": ""}})

        def reply(self, content: object) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the commands, with the files that they name."""
    documents = [
        {
            "_id": f"{topic}{i}",
            "title": f"About {topic}",
            "text": f"There are {i + 3} kinds of {topic}. Some like {topic}.",
        }
        for topic in TOPICS
        for i in range(3)
    ]
    queries = [{"_id": topic, "text": f"how many kinds of {topic} are there"} for topic in TOPICS]
    pairs = [
        {"query": query["text"], "document": document["text"], "score": 2 if query["_id"] in document["_id"] else -1.5}
        for query in queries
        for document in documents[::3]
    ]
    (tmp_path / "beir/qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries), ("pairs", pairs)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
        (tmp_path / f"beir/{name}.jsonl").write_text(text)
    (tmp_path / "pairs.jsonl").rename(tmp_path / "pairs.jsonl.gz")  # told by its first bytes, not by its name
    (tmp_path / "beir/qrels/test.tsv").write_text("".join(f"{topic}\t{topic}0\t1\n" for topic in TOPICS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_shows_all_sources_and_what_comes_next() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["distill"] * 3 + ["evaluate", "serve"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "distill" in c], ids=["documents", "queries", "pairs"])
def test_a_command_of_the_page_makes_a_tier_that_evaluate_measures(command: str, server: str, here: Path) -> None:
    evaluate = next(c for c in COMMANDS if c.startswith("rankfleet evaluate"))
    for line in (command, evaluate):
        done = CliRunner().invoke(app, shlex.split(line.replace(SERVER, server))[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
    assert "my-tier" in done.output
    assert (here / "my-tier/training.png").read_bytes().startswith(b"\x89PNG")
    assert not (here / "my-tier/work").exists()
