"""API keys: who is let in, what is said to others, and how keys come and go."""

import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import rankfleet.cli
from rankfleet.api.dialects.registry import DIALECTS
from rankfleet.api.keys import KeyRing, line_of, new_key, parse_keys, sent_keys
from rankfleet.cli import api_keys, serve  # noqa: F401  (registers the verbs)
from rankfleet.cli.serve import is_loopback
from rankfleet.core.errors import ConfigError, Forbidden, Unauthorized
from tests.unit.fakes import http_client, service

BODY = {"query": "cat", "documents": ["a dog", "a cat"]}
# printf secret | sha256sum, printf other | sha256sum
SECRET = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
OTHER = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# of the shop\n{SECRET}  shop\n\n{OTHER} blog  # until March\n")
    return path


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ([("authorization", "Bearer secret")], ["secret"]),
        ([("authorization", "bearer  secret ")], ["secret"]),
        ([("authorization", "BEARER secret")], ["secret"]),
        ([("authorization", "secret")], ["secret"]),
        ([("x-api-key", "secret")], ["secret"]),
        ([("api-key", " secret")], ["secret"]),
        ([("authorization", "Basic c2VjcmV0"), ("api-key", "secret")], ["secret"]),
        ([("authorization", "Bearer of gateway"), ("x-api-key", "secret"), ("api-key", "b")], ["secret", "b"]),
        ([("authorization", ""), ("cookie", "secret")], []),
    ],
)
def test_the_forms_in_which_clients_send_keys(headers: list[tuple[str, str]], keys: list[str]) -> None:
    sent = sent_keys([(name.encode(), value.encode()) for name, value in headers])
    assert [key.decode() for key in sent] == keys


def test_a_key_is_known_by_its_digest(file: Path) -> None:
    ring = KeyRing(str(file))
    assert ring.tenant_of([(b"authorization", b"Bearer secret")]) == "shop"
    assert ring.tenant_of([(b"authorization", b"Bearer gone"), (b"api-key", b"other")]) == "blog"
    with pytest.raises(Unauthorized, match="is not valid here"):
        ring.tenant_of([(b"authorization", f"Bearer {SECRET}".encode())])
    with pytest.raises(Unauthorized, match="asks for an API key; send it as"):
        ring.tenant_of([])


def test_a_digest_that_only_begins_like_that_of_a_key_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{SECRET[:16]}{'0' * 48} shop\n")
    with pytest.raises(Unauthorized):
        KeyRing(str(path)).tenant_of([(b"api-key", b"secret")])


@pytest.mark.parametrize("line", ["secret", "secret shop", f"{SECRET}", f"{SECRET} a b", f"{SECRET[:-1]} shop"])
def test_a_wrong_line_is_named_and_not_repeated(line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_keys(f"{OTHER} blog\n{line}\n", "keys")
    assert str(raised.value) == "keys, line 2: is not `SHA256 TENANT`, as `rankfleet keys new` prints it"


def test_a_key_has_one_tenant() -> None:
    assert len(parse_keys(f"{SECRET} shop\n{SECRET} shop\n", "keys")) == 1
    with pytest.raises(ConfigError, match="line 2: the key is that of another tenant"):
        parse_keys(f"{SECRET} shop\n{SECRET} blog\n", "keys")


def test_keys_come_and_go_without_a_restart(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = KeyRing(str(file))
    file.write_text(f"{OTHER} shop\n")
    ring.refresh()
    assert ring.tenant_of([(b"api-key", b"other")]) == "shop"
    with pytest.raises(Unauthorized):
        ring.tenant_of([(b"api-key", b"secret")])
    # A secret on Kubernetes is a link that is turned to another file.
    renewed = file.with_name("renewed")
    renewed.write_text(f"{SECRET} shop\n")
    os.utime(renewed, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    renewed.replace(file)
    ring.refresh()
    assert ring.tenant_of([(b"api-key", b"secret")]) == "shop"
    for breaks in (lambda: file.write_text("plain-secret shop\n"), file.unlink):
        breaks()
        with caplog.at_level(logging.ERROR):
            ring.refresh()
        assert "the API keys read before stay valid" in caplog.messages[-1]
        assert "plain-secret" not in caplog.text
        assert ring.tenant_of([(b"api-key", b"secret")]) == "shop"


def test_an_edit_that_leaves_size_and_time_of_change_is_seen(file: Path) -> None:
    ring, before = KeyRing(str(file)), file.stat()
    file.write_text(file.read_text().replace(" shop", " stop"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    ring.refresh()
    assert ring.tenant_of([(b"api-key", b"secret")]) == "stop"


def test_what_is_not_a_regular_file_is_not_read_and_the_log_says_so_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(str(file))
    file.unlink()
    os.mkfifo(file)  # reading would wait for a writer
    with caplog.at_level(logging.ERROR):
        ring.refresh()
        ring.refresh()
    assert caplog.messages == [f"the API keys read before stay valid: {file}: is not a regular file"]
    assert ring.tenant_of([(b"api-key", b"secret")]) == "shop"


def test_a_tenant_that_the_fleet_file_does_not_name_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="the fleet file has no tenant blog; add it to `tenants`"):
        KeyRing(str(file), ["shop"]).check_tenants()
    ring = KeyRing(str(file), ["shop", "blog"])
    file.write_text(f"{SECRET} new\n")
    ring.refresh()
    with pytest.raises(Forbidden, match="tenant new is not among those of this fleet"):
        ring.tenant_of([(b"api-key", b"secret")])


# In the gate


@pytest.fixture
async def client(file: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(service(), keys=KeyRing(str(file))) as http:
        yield http


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_who_has_no_key_is_refused_in_the_form_of_the_dialect_and_nothing_is_read(
    client: httpx.AsyncClient, dialect: Any
) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    for headers in ({}, bearer("guessed")):
        reply = await client.post(dialect.routes[0].path, content=body(), headers=headers)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        shape = dialect.error(Unauthorized("x"), 401, "")
        assert reply.json().keys() == shape.keys()
        assert "API key" in reply.text
        assert "guessed" not in reply.text


async def test_what_needs_a_key_and_what_does_not(client: httpx.AsyncClient) -> None:
    for path in (
        "/",
        "/healthz",
        "/health",
        "/readyz",
        "/tei/health",
        "/docs",
        "/openapi.json",
        "/console",
        "/console/main.js",
    ):
        assert (await client.get(path)).status_code in (200, 503), path
        assert (await client.post(path)).status_code == 401
    for path in (
        "/v1/models",
        "/v1/fleet",
        "/info",
        "/tei/info",
        "/nothing",
        "/metrics",
        "/docs/oauth2-redirect",
        "//v1/models",
    ):
        assert (await client.get(path)).status_code == 401, path
    assert (await client.get("/v1/models", headers=bearer("secret"))).status_code == 200
    assert (await client.get("/nothing", headers=bearer("secret"))).status_code == 404


async def test_reasons_are_for_who_has_a_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).json() == {"status": "starting"}
    assert "reason" in (await client.get("/readyz", headers=bearer("secret"))).json()


async def test_a_tenant_may_name_what_the_fleet_file_says(file: Path) -> None:
    one = service(
        slo_classes={"fast": {"slo_ms": 20}, "slow": {"slo_ms": 1000}},
        default_slo_class="fast",
        tenants={"shop": {"slo_classes": ["slow"], "tiers": ["small", "medium"]}, "blog": {}},
    )
    async with http_client(one, keys=KeyRing(str(file), one.config.tenants)) as http:
        for fields, message in (
            ({"model": "large"}, "tenant shop may not name tier 'large'; it may name auto, small, medium"),
            ({"model": "fast"}, "tenant shop may not name SLO class 'fast'; it may name slow"),
            ({"slo_class": "fast"}, "tenant shop may not name SLO class 'fast'; it may name slow"),
        ):
            reply = await http.post("/v1/rerank", json=BODY | fields, headers=bearer("secret"))
            assert (reply.status_code, reply.json()["error"]["message"]) == (403, message)
            assert reply.json()["error"]["code"] == "forbidden"
            assert (await http.post("/v1/rerank", json=BODY | fields, headers=bearer("other"))).status_code == 200
        mine = (await http.post("/v1/rerank", json=BODY, headers=bearer("secret"))).json()
        assert (mine["model"], mine["rankfleet"]["slo"]["class"]) == ("medium", "slow")
        unknown = await http.post("/v1/rerank", json=BODY | {"model": "gpt"}, headers=bearer("secret"))
        assert unknown.status_code == 404


# Browsers


def preflight(origin: str) -> dict[str, str]:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    return {"origin": origin} | asked


async def test_pages_of_other_origins_may_not_call_the_api_unless_the_fleet_file_names_them(file: Path) -> None:
    mine, other = "https://app.example.org", "https://evil.example.org"
    async with http_client(service()) as http:
        reply = await http.post("/v1/rerank", json=BODY, headers={"origin": mine})
        assert "access-control-allow-origin" not in reply.headers
        assert (await http.options("/v1/rerank", headers=preflight(mine))).status_code == 405
    async with http_client(service(cors_origins=[mine]), keys=KeyRing(str(file))) as http:
        allowed = await http.options("/v1/rerank", headers=preflight(mine))
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, mine)
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-origin" not in (await http.options("/", headers=preflight(other))).headers
        for headers, status in (({}, 401), (bearer("secret"), 200)):
            reply = await http.post("/v1/rerank", json=BODY, headers={"origin": mine} | headers)
            assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, mine)
        reply = await http.post("/v1/rerank", json=BODY, headers={"origin": other} | bearer("secret"))
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("origin", ["*", "https://app.example.org/", "app.example.org", "null"])
def test_an_origin_is_named_in_full(origin: str) -> None:
    with pytest.raises(ConfigError, match="cors_origins"):
        service(cors_origins=[origin])


# The command line


def run(*arguments: str) -> Any:
    return CliRunner().invoke(rankfleet.cli.app, [*arguments])


def test_a_new_key_is_shown_once_with_the_line_for_the_file(tmp_path: Path) -> None:
    printed = run("keys", "new", "shop")
    key = printed.stdout.strip()
    assert line_of(key, "shop") in printed.stderr
    assert len(new_key()) == len(key) == 46
    file = tmp_path / "keys"
    file.write_text(f"{OTHER} blog")
    key = run("keys", "new", "shop", "--file", str(file)).stdout.strip()
    assert file.read_text() == f"{OTHER} blog\n{line_of(key, 'shop')}\n"
    fresh = tmp_path / "fresh"
    run("keys", "new", "shop", "--file", str(fresh))
    assert fresh.stat().st_mode & 0o777 == 0o600
    assert isinstance(run("keys", "new", "a b").exception, ConfigError)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_are_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert not is_loopback("example.org")


def test_serve_does_not_listen_for_others_without_keys() -> None:
    error = run("serve", "--host", "0.0.0.0").exception
    assert isinstance(error, ConfigError)
    assert "--keys" in str(error)
    assert "--allow-anyone" in str(error)


def test_keys_in_the_fleet_file_of_earlier_versions_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"slo_classes.fast.api_key_sha256: was moved: .*docs/keys.md"):
        service(slo_classes={"fast": {"slo_ms": 20, "api_key_sha256": [SECRET]}})


@pytest.mark.parametrize(("kind", "named"), [("slo_classes", "slow"), ("tiers", "huge")])
def test_tenants_are_checked_against_the_fleet(kind: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"tenants.shop.{kind}: {named} is none of"):
        service(slo_classes={"fast": {"slo_ms": 20}}, tenants={"shop": {kind: [named]}})


async def test_no_key_and_no_text_is_in_logs_or_errors(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    document, query = "my salary is 12345", "what do I earn"
    bodies = [
        {"query": query, "documents": [document]} | fields
        for fields in ({}, {"slo_ms": -1}, {"documents": [document, 5]}, {"documents": [{"txt": document}]}, {"x": 1})
    ]
    with caplog.at_level(logging.DEBUG):
        async with http_client(service(), keys=KeyRing(str(file))) as http:
            for dialect in DIALECTS:
                for headers in (bearer("secret"), bearer("wrong-key"), {}):
                    for body in (*map(json.dumps, bodies), f'{{"query": "{query}", "documents": ["{document}"'):
                        reply = await http.post(dialect.routes[0].path, content=body, headers=headers)
                        if reply.status_code != 200:
                            for private in (document, query, "secret", "wrong-key"):
                                assert private not in reply.text, reply.text
    for private in (document, query, "secret", "wrong-key"):
        assert private not in caplog.text
