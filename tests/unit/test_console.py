"""The console's files as the router serves them. `tests/check/test_console.py` opens them in a browser."""

from collections.abc import AsyncIterator

import httpx
import pytest

from rankfleet.api.console.routes import WEB
from rankfleet.cli.options import load_config
from rankfleet.cli.serve import greet
from tests.unit.fakes import http_client, service

FILES = sorted(str(path.relative_to(WEB)) for path in WEB.rglob("*") if path.is_file())
MAX_BYTES = 300_000


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(service()) as http:
        yield http


async def test_the_page_may_load_from_this_router_alone(client: httpx.AsyncClient) -> None:
    reply = await client.get("/console")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = reply.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_served_and_names_no_other_host(client: httpx.AsyncClient, name: str) -> None:
    reply = await client.get(f"/console/{name}")
    assert reply.status_code == 200
    assert reply.content == (WEB / name).read_bytes()
    assert reply.headers["content-type"].split(";")[0] in ("text/html", "text/css", "text/javascript", "image/svg+xml")
    text = reply.text.replace("http://www.w3.org/2000/svg", "").replace("${origin}", "")
    assert "http://" not in text
    assert "https://" not in text
    assert "innerHTML" not in text
    assert "insertAdjacentHTML" not in text


def test_the_page_is_light() -> None:
    assert sum((WEB / name).stat().st_size for name in FILES) < MAX_BYTES


async def test_a_browser_that_has_a_file_gets_304(client: httpx.AsyncClient) -> None:
    first = await client.get("/console/main.js")
    again = await client.get("/console/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.get("/console/main.js", headers={"if-none-match": '"old"'})).status_code == 200


async def test_no_other_file_is_served(client: httpx.AsyncClient) -> None:
    for name in ("nothing.js", "../routes.py", "%2e%2e/routes.py", "..%2froutes.py", "/etc/passwd", "lib"):
        reply = await client.get(f"/console/{name}")
        assert reply.status_code == 404, name
        assert "there is nothing at" in reply.json()["error"]["message"]


async def test_the_page_may_end_in_a_slash_and_takes_head(client: httpx.AsyncClient) -> None:
    assert (await client.get("/console/")).text == (await client.get("/console")).text
    assert (await client.head("/console")).status_code == 200


def test_serve_prints_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    greet(load_config("demo"), "http://127.0.0.1:8000", "http://127.0.0.1:8080/metrics")
    assert "http://127.0.0.1:8000/console" in capsys.readouterr().out
