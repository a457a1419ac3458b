"""A Hugging Face hub on 127.0.0.1 that speaks what `huggingface_hub` asks for, with small random checkpoints in it.

    python -m tests.fake_hub    # serves until Ctrl-C; then, elsewhere:  HF_ENDPOINT=… HF_HOME=… rankfleet models pull …

As on the real hub, the description and the list of files of a gated model are public, large files lie on another host
behind a redirect, and a missing model is answered with 401 to whoever shows no token.
"""

import functools
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

PATH = re.compile(r"/(?:(api/models|cdn)/)?([^/]+/[^/]+?)(?:/(tree|revision|resolve)/([^/]+)/?(.*))?")
LARGE_BYTES = 1_000_000  # from here on a file is stored apart, and every *.safetensors
ETTIN = {  # size: (commit, shape as hidden, layers, heads, MLP inner)
    "17m": ("9e4aa35321a6dd1a43ca313f500c4b4f7cfb5cc6", (128, 2, 2, 96)),
    "32m": ("b33e5ceb5110773ea9cf5e00c9bedc83a8c2afdd", (64, 3, 1, 96)),
    "68m": ("d166fa88ddde3c42bc3ee92f7df476d941c8204a", (64, 4, 1, 96)),
    "150m": ("025501c4e0f9bbeb4c5b198318e0089ff061cc14", (64, 5, 1, 96)),
    "400m": ("5dca36282a5d85f368d2544002513a29159b4c9e", (64, 6, 1, 96)),
    "1b": ("7d20e9baad17016fdf5549c08f69a2d7ca3e60c3", (64, 7, 1, 96)),
}
TEACHER = "mixedbread-ai/mxbai-rerank-large-v2"
TEACHER_COMMIT = "ca7e1ee484c37c0ddd8d178a9a5c33cec575c5e6"


@dataclass(frozen=True)
class Repository:
    """A model on the hub, at one commit. `token`: of those who may read its files; None for everybody."""

    folder: Path
    commit: str
    token: str | None = None

    @property
    def files(self) -> dict[str, Path]:
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Asked:
    """One request. `from_byte`: where it asks to take up a file."""

    method: str
    path: str
    token: str | None
    from_byte: int


@dataclass
class FakeHub:
    """What a test sees of the server.

    `asked`: every request so far. `breaks`: files whose next download loses its connection at this byte.
    `unavailable`: files whose download is answered with 503.
    """

    endpoint: str
    repositories: dict[str, Repository]
    asked: list[Asked] = field(default_factory=list)
    breaks: dict[Path, int] = field(default_factory=dict)
    unavailable: set[Path] = field(default_factory=set)

    def downloads(self) -> list[str]:
        """The paths of the files sent so far."""
        return [asked.path for asked in self.asked if asked.method == "GET" and not asked.path.startswith("/api/")]


@contextmanager
def serving_hub(repositories: dict[str, Repository]) -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = FakeHub(f"http://127.0.0.1:{server.server_port}", repositories)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        hub.asked.append(Asked(self.command, path, token, start))
        found = PATH.fullmatch(path)
        where, name, kind, revision, rest = found.groups() if found else (None, "", None, None, "")
        repository = hub.repositories.get(name)
        if repository is None:
            return self.refuse(404 if token else 401, "RepoNotFound")
        if revision not in (None, "main", repository.commit):
            return self.refuse(404, "RevisionNotFound")
        if kind == "tree":
            return self.send_json([described(name, file) for name, file in repository.files.items()])
        if where == "api/models":
            return self.send_json({"id": name, "sha": repository.commit, "siblings": []})
        if where is None and repository.token not in (None, token):
            return self.refuse(403 if token else 401, "GatedRepo")
        file = repository.files.get(rest)
        if file is None:
            return self.refuse(404, "EntryNotFound")
        if where is None and is_large(file):
            return self.redirect(path, file, repository.commit)
        if file in hub.unavailable:
            return self.refuse(503, "Unavailable")
        self.send_file(file, start, {"X-Repo-Commit": repository.commit, "ETag": f'"{git_digest(file)}"'})

    def redirect(self, path: str, file: Path, commit: str) -> None:
        """Where a large file is stored: at another host name, so that the token is not sent on."""
        self.send_response(302)
        headers = {
            "Location": f"http://localhost:{self.server.server_address[1]}/cdn{path}",
            "X-Repo-Commit": commit,
            "X-Linked-ETag": f'"{sha256(file)}"',
            "X-Linked-Size": str(file.stat().st_size),
            "Content-Length": "0",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_file(self, file: Path, start: int, headers: dict[str, str]) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        content = file.read_bytes()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            until = hub.breaks.pop(file, None)
            self.wfile.write(content[start:until])
            self.close_connection = until is not None

    def send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def described(name: str, path: Path) -> dict[str, object]:
    """A file in the list of a model's files."""
    size = path.stat().st_size
    entry: dict[str, object] = {"type": "file", "oid": git_digest(path), "size": size, "path": name}
    return entry | ({"lfs": {"oid": sha256(path), "size": size, "pointerSize": 134}} if is_large(path) else {})


def is_large(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.stat().st_size >= LARGE_BYTES


@functools.cache
def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def git_digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def small_models(folder: Path) -> dict[str, Repository]:
    """The six Ettin rerankers and the teacher, in the formats of the published ones, with random weights."""
    from tests.engine.checkpoints import ettin, qwen2_reranker

    found = {
        f"cross-encoder/ettin-reranker-{size}-v1": Repository(ettin(folder / size, shape, seed=seed), commit)
        for seed, (size, (commit, shape)) in enumerate(ETTIN.items())
    }
    return found | {TEACHER: Repository(qwen2_reranker(folder / "teacher"), TEACHER_COMMIT)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, serving_hub(small_models(Path(temporary))) as served:
        print(f"HF_ENDPOINT={served.endpoint}", flush=True)
        threading.Event().wait()
