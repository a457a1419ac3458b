"""Hostile requests as bytes on a connection: bodies that are wrong, and HTTP that is."""

import contextlib
import gzip
import http.client
import io
import json
import socket
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rankfleet.api.dialects.registry import DIALECTS

ROUTES = [route for dialect in DIALECTS for route in dialect.routes]
QUERY = "How do vaccines protect against disease?"
RIGHT = "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later."
GOOD = json.dumps({"query": QUERY, "documents": [RIGHT, "Rain."]}).encode()
# In place of each field of each format, and of each document.
WRONG: list[Any] = [
    *(True, -1, 0, 2**70, 1e308, 5e-324, "", "\0", "x" * 100_000, [], {}, [[]], [{}], [None], [1]),
    *(["a", 1], [["a"], "b"], [{"text": None}], [{"text": 1}], [{"text": "a", "score": "b"}], [{"text": "a"}, "b"]),
]
ENDLESS = b"0" * 50_000_000  # what a few bytes unpack to


class Head(NamedTuple):
    """What a client needs besides its requests. key: an API key."""

    key: str

    def post(
        self,
        body: bytes,
        *headers: bytes,
        path: bytes = b"/v1/rerank",
        method: bytes = b"POST",
        length: int | None = None,
        version: bytes = b"HTTP/1.1",
    ) -> bytes:
        """A request. length: that it says its body has; -1 for none."""
        said = len(body) if length is None else length
        lines = [
            method + b" " + path + b" " + version,
            b"Host: fleet",
            b"Authorization: Bearer " + self.key.encode(),
            b"Content-Type: application/json",
            *([b"Content-Length: %d" % said] if said >= 0 else []),
            *headers,
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Attack:
    """What is sent on one connection, and what may come back.

    parts: sent one after the other. allowed: statuses; a connection that is closed without a reply is always allowed.
    least, most: how many replies there have to be, and may be; None for any number. ends: whether the client ends its
    side once it has sent everything.
    """

    name: str
    parts: Sequence[bytes]
    allowed: Sequence[int] = (400, 413, 422, 429)
    least: int = 0
    ends: bool = False
    most: int | None = None


def values(piece: bytes, count: int) -> bytes:
    """A body with many documents."""
    return b'{"query": "a", "documents": [' + piece * count + b'"a"]}'


def bodies(head: Head) -> Iterator[Attack]:
    """Bodies that are refused, or answered where nothing in them is wrong."""
    refused = {
        "empty": b"",
        "lists in lists": b'{"query": "a", "documents": ' + b"[" * 500_000,
        "objects in objects": b'{"query": "a", "documents": [' + b'{"text": ' * 500_000,
        "a closed tower": b'{"query": "a", "documents": [' + b'{"a": ' * 5000 + b"1" + b"}" * 5000 + b"]}",
        "no JSON": b"\x00\xff" * 1000,
        "UTF-16": GOOD.decode().encode("utf-16"),
        "half a character": b'{"query": "\xe2\x82", "documents": ["a"]}',
        "half a surrogate pair": b'{"query": "\\ud800", "documents": ["a"]}',
        "two low surrogates": b'{"query": "a", "documents": ["\\udc00\\udc00"]}',
        "an integer of a million digits": b'{"query": "a", "documents": ["a"], "top_n": ' + b"9" * 1_000_000 + b"}",
        "a number beyond all": b'{"query": "a", "documents": ["a"], "slo_ms": 1e99999}',
        "NaN": b'{"query": "a", "documents": ["a"], "slo_ms": NaN}',
        "minus Infinity": b'{"query": "a", "documents": ["a"], "scores": [-Infinity]}',
        "infinity by overflow": b'{"query": "a", "documents": [{"text": "a", "score": 1e400}]}',
        "a number of 4,000 digits": b'{"query": "a", "documents": [{"text": "a", "n": ' + b"9" * 4000 + b"}]}",
        "a field of a megabyte": b'{"' + b"k" * 1_000_000 + b'": 1}',
        "a megabyte of exclamation marks, too long": b'{"query": "a", "documents": ["' + b"!" * 1_000_001 + b'"]}',
        "a query that is too long": b'{"query": "' + b"a" * 100_000 + b'", "documents": ["a"]}',
        "Python": b"__import__('os').system('true')",
        "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "rank_fields of tens of thousands of values": json.dumps(
            {"query": "a", "documents": [{"f": [[1] * 100] * 600}], "rank_fields": ["f"]}
        ).encode(),
        "rank_fields that look like a number for long": json.dumps(
            {"query": "a", "documents": [{"f": "1:" * 3_000_000}], "rank_fields": ["f"]}
        ).encode(),
        "rank_fields nested too deep": b'{"query": "a", "rank_fields": ["f"], "documents": [{"f": '
        + b"[" * 100
        + b"]" * 100
        + b"}]}",
    }
    for name, body in refused.items():
        yield Attack(name, [head.post(body)], least=1)
    answered = {
        "duplicate keys": b'{"query": "b", "query": "a", "documents": ["c"], "documents": ["a"]}',
        "NULs and directions": json.dumps({"query": "a", "documents": ["\0", "\u202e", "\x85", "\ufeff"]}).encode(),
        "exclamation marks": b'{"query": "a", "documents": ["' + b"!" * 999_000 + b'"], "slo_ms": 60000}',
        "one word": b'{"query": "a", "documents": ["' + b"a" * 999_000 + b'"], "slo_ms": 60000}',
        "a byte-order mark": b"\xef\xbb\xbf" + GOOD,
        "numbers as they were sent": b'{"query": "a", "return_documents": true, "documents": [{"text": "a", "n": %d}]}'
        % (2**64 - 1),
    }
    for name, body in answered.items():
        yield Attack(name, [head.post(body)], (200, 429), least=1)
    packed = {"gzip": gzip.compress(ENDLESS), "deflate": zlib.compress(ENDLESS), "br": b"\x8b\x02\x80\x00" * 50}
    for name, body in packed.items():
        yield Attack(
            f"a bomb by {name}", [head.post(body, b"Content-Encoding: " + name.encode())], (400, 422, 429), least=1
        )


def heavy(head: Head) -> Iterator[Attack]:
    """Bodies that take long to parse."""
    refused = {
        "a million numbers": values(b"1,", 990_000),
        "a million lists": values(b"[],", 490_000),
        "too many commas": values(b'"",', 1_100_000),
        "unknown fields": b"{" + b",".join(b'"k%d": 1' % i for i in range(100_000)) + b"}",
        "fields of nulls": b"{" + b",".join(b'"k%d": null' % i for i in range(490_000)) + b"}",
        "texts of nothing": values(b'{"text":""},', 300_000),
        "sixty megabytes": b'{"query": "a", "documents": ["' + b"a" * 60_000_000 + b'"]}',
    }
    words = (
        b'{"query": "a", "slo_ms": 60000, "documents": ["'
        + b'","'.join([b"a" * 990_000 + b"%d" % i for i in range(20)])
        + b'"]}'
    )
    yield Attack("words of a megabyte, which nobody waits for", [head.post(words)], (200, 429))
    for name, body in refused.items():
        yield Attack(name, [head.post(body)], least=1)


def wrong_types(head: Head) -> Iterator[Attack]:
    """Every field of every format with every value that is of no use."""
    for route in ROUTES:
        for field in route.body.model_fields:
            for value in WRONG:
                body = json.dumps({**route.example, field: value}).encode()
                allowed = (200, 400, 404, 413, 422, 429)
                yield Attack(
                    f"{route.path} {field} {value!r:.30}", [head.post(body, path=route.path.encode())], allowed, 1
                )


def protocol(head: Head) -> Iterator[Attack]:
    """HTTP that is wrong, or that two servers could read in two ways."""
    chunked = b"Transfer-Encoding: chunked"
    inner = head.post(GOOD)  # a request inside another one's body
    odd = (200, 400, 401, 403, 404, 405, 408, 411, 413, 414, 417, 422, 426, 429, 431, 501, 505)
    whole = b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n"

    def one(name: str, *parts: bytes, ends: bool = False, least: int = 0) -> Attack:
        return Attack(name, parts, odd, least, ends)

    for header in (
        b"X-A: b\r\n folded",
        b"X-A: b\rX-B: c",
        b"X-A: b\nX-B: c",
        b"X-A: \0",
        b"X A: b",
        b"X-A : b",
        b": b",
        b"no colon",
        b"X-\xff: \xff",
        b"X-A: " + b"a" * 100_000,
        b"X-A: " + b"a" * 300_000,
        b"\r\n".join(b"X-%d: a" % i for i in range(3000)),
        b"Host: other",
        b"x-request-id: a\x0d\x0aSet-Cookie: b",
        b"x-request-id: " + b"\xe2\x80\xa8" * 30,
        b"x-request-id: \xff",
        b"x-session-id: \xff",
        b"x-rankfleet-slo-ms: 1e999",
        b"x-rankfleet-nothing: 1",
        b"Expect: 100-continue",
        b"Expect: the-unexpected",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        b"Connection: close, authorization",
        b"Range: bytes=0-1",
        b"Cookie: " + b"a=b; " * 10_000,
        b"serve_multiplexed_model_id: other",
        b"x-request-timeout-seconds: -1",
        b"x-request-timeout-seconds: 1e-9",
        b"x-request-disconnect-disabled: ?1",
    ):
        yield one(f"header {header[:40]!r}", head.post(GOOD, header))
    for length in (
        b"-1",
        b"+5",
        b"0x10",
        b"1e3",
        b"5, 6",
        b"5 5",
        b"",
        b"9" * 30,
        b"\xd9\xa1",
        b"10\r\nContent-Length: 11",
    ):
        yield one(f"length {length[:20]!r}", head.post(GOOD, b"Content-Length: " + length, length=-1), ends=True)
    for coding in (
        b"chunked, identity",
        b" chunked",
        b"\x0bchunked",
        b"xchunked",
        b"chunked\r\n" + chunked,
        b"gzip, chunked",
    ):
        asked = head.post(whole, b"Transfer-Encoding: " + coding, length=-1)
        yield one(f"coding {coding[:20]!r}", asked, ends=True)
    for size in (b"f" * 16, b"f" * 17, b"-1", b"0x5", b"5;" + b"e" * 300_000, b"g", b"", b"5\n"):
        yield one(f"chunk of {size[:20]!r}", head.post(size + b"\r\nabcde\r\n0\r\n\r\n", chunked, length=-1), ends=True)
    yield one(
        "chunks of one byte", head.post(b"", chunked, length=-1), *[b"1\r\n%c\r\n" % c for c in GOOD], b"0\r\n\r\n"
    )
    yield one("trailers", head.post(whole[:-2] + b"X-A: b\r\nContent-Length: 5\r\n\r\n", chunked, length=-1))
    yield one("length and chunks", head.post(whole + inner, chunked, length=5), ends=True)
    yield one("chunks and length", head.post(b"0\r\n\r\n" + inner, chunked, length=5 + len(inner)), ends=True)
    yield one("a request in a GET", head.post(inner, method=b"GET", path=b"/healthz"), ends=True)
    yield one("a request behind a HEAD", head.post(b"", method=b"HEAD", path=b"/healthz") + inner, ends=True)
    padding = b"\r\n" * 200_000  # so that the request in the body is read alone, as HAProxy passes it on
    for wish in (b"foo", b"h2c", b"websocket", b"TLS/1.3"):
        for method in (b"GET", b"POST"):
            headers = (b"Connection: Upgrade", b"Upgrade: " + wish)
            asked = head.post(padding, *headers, method=method, length=len(padding + inner))
            yield Attack(f"{method!r} of {wish!r} with a request in its body", [asked, inner], odd, most=1)
    yield one("fifty at once", head.post(GOOD) * 50, least=1)
    yield one("a body that is cut off", head.post(GOOD[:20], length=len(GOOD)), ends=True)
    yield one("a chunk that is cut off", head.post(b"50\r\nabc", chunked, length=-1), ends=True)
    yield one("headers that are cut off", head.post(GOOD)[:60], ends=True)
    yield one("half closed", head.post(GOOD), ends=True)  # to HAProxy and uvicorn, that is a client that has gone
    for method in (
        b"FOO",
        b"get",
        b"TRACE",
        b"CONNECT",
        b"OPTIONS",
        b"PUT",
        b"DELETE",
        b"PATCH",
        b"G\0T",
        b"A" * 10_000,
    ):
        yield one(f"method {method[:20]!r}", head.post(b"", method=method))
    for path in (
        *(b"*", b"http://elsewhere/v1/rerank", b"//v1/rerank", b"/../v1/fleet", b"/%00", b"/%", b"/%ff%fe", b"v1"),
        *(b"/v1/rerank?" + b"a=1&" * 50_000, b"/v1/rerank?query=a", b"/" + b"a" * 200_000, b"/v1" * 20_000),
        *(b"/v1/rerank?%0d%0aX-A:%20b", b"/v1/retrieval/" + b"a/" * 20_000 + b"reranking", b"/console/../v1/fleet"),
        *(b"/console/%2e%2e/%2e%2e/routes.py", b"/-/routes", b"/-/healthz", b"/v1/rerank\x80", b"/a b"),
    ):
        yield one(f"path {path[:30]!r}", head.post(GOOD, path=path))
        yield one(f"GET {path[:30]!r}", head.post(b"", path=path, method=b"GET"))
    for version in (b"HTTP/0.9", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1.1", b"ICY/1.0", b""):
        yield one(f"version {version!r}", head.post(GOOD, version=version), ends=True)
    yield one("HTTP/2 without asking", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", ends=True)
    yield one("TLS", bytes.fromhex("16030100050100000100") + b"\0" * 200, ends=True)
    yield one("noise", bytes(range(256)) * 50, ends=True)
    yield one("line ends", b"\r\n" * 5000, ends=True)


def send(address: tuple[str, int], attack: Attack, timeout_s: float = 5.0) -> list[tuple[int, bytes]]:
    """The whole replies that come within this time of silence, each with its status and body."""
    received = b""
    with socket.create_connection(address, timeout=timeout_s) as connection:
        with contextlib.suppress(ConnectionError, TimeoutError):  # what is refused early is answered, and then closed
            for part in attack.parts:
                connection.sendall(part)
            if attack.ends:
                connection.shutdown(socket.SHUT_WR)
        try:
            connection.settimeout(timeout_s)
            while part := connection.recv(1_000_000):
                received += part
                found = replies(received)
                if attack.most is not None:
                    connection.settimeout(1.0)  # for one more
                elif not attack.ends and len(found) >= max(1, attack.least):
                    break
        except (ConnectionError, TimeoutError):
            pass  # it was closed, which is an answer
    return replies(received)


class Received(io.BytesIO):
    def makefile(self, *_: object) -> "Received":
        return self

    def close(self) -> None:
        """Stay open: `http.client` closes what it has read to its end."""


def replies(received: bytes) -> list[tuple[int, bytes]]:
    """The whole replies at the beginning of what came on a connection."""
    stream, found = Received(received), []
    while stream.tell() < len(received):
        reply = http.client.HTTPResponse(stream)  # type: ignore[arg-type]
        try:
            reply.begin()
            found.append((reply.status, reply.read()))
        except (http.client.HTTPException, ValueError):
            break
    return found
