"""What every client can do with a running fleet, and how a test makes the fleet refuse.

These tests run in the clients' environments (`environments.py`), where Rankfleet is not installed. The fleet's address
is in RANKFLEET_URL (`tests/check/test_clients.py`).
"""

import contextlib
import io
import itertools
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

URL = os.environ.get("RANKFLEET_URL", "")
DOCS = Path(__file__).parents[2] / "docs/clients"
QUICK_START = "http://127.0.0.1:8000"  # in the pages; where `make serve` serves
QUERY = "How do vaccines protect against disease?"
DOCUMENTS = [
    "The stock market closed higher on Friday after strong earnings.",
    "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
    "Heavy rain is expected in the north of the country this weekend.",
    "The museum opens at ten.",
]
BEST, AS_GIVEN = 1, [0, 1, 2, 3]

LONG_MS, SHORT_MS = 30_000, 1  # nothing can be scored within the short one: the answer is the order as given
CLASSES = {LONG_MS: "patient", SHORT_MS: "instant"}  # SLO classes of the fleet that have these budgets
KEYS = {name: f"key-of-{name}" for name in CLASSES.values()}  # of tenants that may name these classes alone
MODEL = "BAAI/bge-reranker-v2-m3"  # of a client that changes its base URL alone: an SLO class of this name

# Four bodies that stop before their end take up the memory for requests in flight, at 2 bytes a byte. Then every other
# request is refused. What has arrived has to be more than the proxy keeps back until a body is complete (256 KiB).
MAX_BODY_BYTES = 1_000_000
MAX_BYTES_IN_FLIGHT = 8 * MAX_BODY_BYTES
HELD = 4 * (MAX_BODY_BYTES - 1,)
SMALL = json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode()
# Parsing it would take nearly all of that memory: 5 bytes a byte, and 40 for each comma.
LARGE = b"x" * (MAX_BODY_BYTES - 74_000) + b"," * 74_000

Rows = list[tuple[int, float]]  # (index, score) of each result, in the client's order


@dataclass(frozen=True)
class Ask:
    """What a test asks for. A client ignores what it cannot send. `top_n` None is all."""

    model: str = "auto"
    top_n: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str = "none"
    query: str = QUERY


# The ways in which a client may give a budget of so many milliseconds.
BUDGET_BY = {
    "headers": lambda slo_ms: Ask(headers={"x-rankfleet-slo-ms": str(slo_ms)}),
    "model": lambda slo_ms: Ask(model=CLASSES[slo_ms]),
}


@contextlib.contextmanager
def busy(for_s: float = 20.0) -> Iterator[None]:
    """A fleet that refuses every request, for this long or until the end of the block."""
    deadline, arrive_s = time.monotonic() + 60, 0.1
    with contextlib.ExitStack() as held:
        while not held_by(held, arrive_s):
            held.close()
            arrive_s *= 2
            wait_until_free(deadline)
            assert time.monotonic() < deadline, "the fleet refuses nothing"
        timer = threading.Timer(for_s, held.close)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
    wait_until_free(deadline + for_s)


def wait_until_free(deadline: float) -> None:
    """Returns when nothing is held any more: while anything is, LARGE cannot be parsed."""
    while status_of(LARGE) != 422:
        assert time.monotonic() < deadline, "the fleet still refuses"


def held_by(held: contextlib.ExitStack, arrive_s: float) -> bool:
    """Send the beginnings of HELD, which end with `held`. Whether the fleet now refuses: if an earlier request is not
    over yet, one of them may have been refused itself. arrive_s: for them to arrive: a request that comes before their
    last bytes takes the memory that is left for these."""
    address = urlsplit(URL)
    head = f"POST /v1/rerank HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n"
    for size in HELD:
        connection = socket.create_connection((address.hostname, address.port))
        held.callback(connection.close)
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            connection.sendall(head.encode() + b"x" * size)
    time.sleep(arrive_s)
    refused = (status_of(SMALL) == 429 for _ in range(40))
    return any(itertools.islice(refused, 20)) and all(refused)  # and still does when earlier requests are over


def status_of(body: bytes) -> int:
    """Of the reply to this body; 0 for one that was refused before all of it was sent."""
    with contextlib.suppress(requests.ConnectionError):
        return requests.post(f"{URL}/v1/rerank", data=body, timeout=60).status_code
    return 0


class ClientContract:
    """A client, called as its users call it. Subclasses say how, and state what it cannot do.

    error, wrong, message: what is raised for a request that is wrong, and what it says.
    refusal, busy_message: what is raised where the fleet is too busy, and what it says.
    ways: in which it can give a budget, beside its key.
    """

    error: type[Exception]
    wrong = Ask(model="gpt")
    message = "there is no model 'gpt'"
    refusal: type[Exception]
    busy_message = "leave no memory for this one; retry shortly"
    ways: tuple[str, ...] = ("headers", "model")

    def rank(self, ask: Ask) -> Rows:
        """DOCUMENTS, ranked, without a retry."""
        raise NotImplementedError

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        """The headers of a refusal; empty for a client that drops them."""
        return {}

    tells_when_to_retry = True

    def test_documents_come_back_best_first(self) -> None:
        rows = self.rank(Ask())
        assert rows[0][0] == BEST
        assert sorted(index for index, _ in rows) == AS_GIVEN
        assert [score for _, score in rows] == sorted((score for _, score in rows), reverse=True)

    def test_top_n_of_them(self) -> None:
        rows = self.rank(Ask(top_n=2))
        assert (len(rows), rows[0][0]) == (2, BEST)

    def test_an_error_says_what_is_wrong(self) -> None:
        with pytest.raises(self.error) as caught:
            self.rank(self.wrong)
        assert self.message in text_of(caught.value)

    def test_a_refusal_says_when_to_retry(self) -> None:
        with busy(), pytest.raises(self.refusal) as caught:
            self.rank(Ask())
        assert self.busy_message in text_of(caught.value)
        told = self.headers_of(caught.value)
        wait = {"retry-after": "1", "retry-after-ms": "500"} if self.tells_when_to_retry else {}
        assert {name: told[name] for name in wait} == wait
        assert bool(told) == self.tells_when_to_retry

    def test_a_budget_decides_what_is_scored(self) -> None:
        for way in self.ways:
            self.check_budget(BUDGET_BY[way])

    def test_an_api_key_selects_a_budget(self) -> None:
        """Of a fleet with API keys; all other tests are of one without."""
        self.check_budget(lambda slo_ms: Ask(key=KEYS[CLASSES[slo_ms]]))

    def check_budget(self, asked_within: Callable[[int], Ask]) -> None:
        assert self.rank(asked_within(LONG_MS))[0][0] == BEST
        rows = self.rank(asked_within(SHORT_MS))
        assert [index for index, _ in rows] == AS_GIVEN
        assert len({score for _, score in rows}) == 1, "none was scored"


def text_of(error: Exception) -> str:
    return f"{error!r} {error} {getattr(error, 'body', '')}"


CODE = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)


def run_page(name: str) -> None:
    """Run the Python of a page from top to bottom, against this fleet. It prints what the page says."""
    page, names = (DOCS / f"{name}.md").read_text(), {"__name__": name}
    blocks = CODE.findall(page)
    assert blocks, "a page has code"
    for code, expected in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code.replace(QUICK_START, URL), f"{name}.md", "exec"), names)
        assert printed.getvalue() == expected
