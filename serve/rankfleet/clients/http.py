"""Asking an HTTP server for JSON: again where it is overloaded, after the time that it names, and with errors in words.

RankfleetError
├── InvalidRequest    the address is none
├── TooMuch           413: fewer documents or bytes may pass
└── RankfleetError    it does not answer, refuses, asks to wait too long, or answers in another form
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from rankfleet.clients.parts import TooMuch
from rankfleet.core.errors import InvalidRequest, RankfleetError

TRIES = 8
MAX_WAIT_S = 30.0  # between tries, where the server names no time
MAX_RETRY_AFTER_S = 600.0  # a server that names a longer time has no room today
TIMEOUT_S = 120.0
RETRIED = (429, 502, 503, 504)
KEY_REFUSED = (401, 403)


class JsonClient:
    """A server at one address. answered_s: how long the last answer took, by the clock, without waits before it."""

    def __init__(
        self,
        address: str,
        client: httpx.Client | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
        key: str | None = None,
        key_name: str | None = None,
        proxy: bool = False,
    ) -> None:
        """key: sent as a bearer token; key_name: the environment variable that it comes from, for messages.
        proxy: go through the proxy that the environment names, if any."""
        self.address = address.rstrip("/")
        self.answered_s = 0.0
        self._client = client or httpx.Client(timeout=TIMEOUT_S, trust_env=proxy)
        self._headers: Mapping[str, str] = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._key_name = key_name
        self._sleep, self._clock = sleep, clock

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, tries: int = TRIES) -> Any:
        """The server's JSON. Raises the errors above."""
        url = self.address + path
        for tried in range(1, tries + 1):
            wait_s = min(MAX_WAIT_S, 2.0 ** (tried - 1))
            started = self._clock()
            try:
                reply = self._client.request(method, url, json=body, headers=self._headers)
            except httpx.TransportError as error:
                problem = f"{url} does not answer ({type(error).__name__}: {error})"
            except (httpx.InvalidURL, ValueError) as error:
                raise InvalidRequest(f"{self.address}: {error}") from error
            else:
                self.answered_s = self._clock() - started
                if reply.status_code == 200:
                    return decoded(reply, url)
                problem = f"{url} answers {reply.status_code}: {said(reply)}"
                if reply.status_code == 413:
                    raise TooMuch(problem)
                if reply.status_code in KEY_REFUSED:
                    raise RankfleetError(f"{problem}; {self._about_key()}")
                if reply.status_code not in RETRIED:
                    raise RankfleetError(problem)
                wait_s = retry_after_s(reply, wait_s)
            if wait_s > MAX_RETRY_AFTER_S:
                raise RankfleetError(f"{problem}; it asks to wait {wait_s:.0f} s. Run the same command again then")
            if tried < tries:
                self._sleep(wait_s)
        again = f"; gave up after {tries} tries. Run the same command again to go on from here" if tries > 1 else ""
        raise RankfleetError(problem + again)

    def _about_key(self) -> str:
        if not self._headers:
            return "it wants a key, and none was sent"
        return f"it does not accept the key in the environment variable {self._key_name}"


def decoded(reply: httpx.Response, url: str) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise RankfleetError(f"{url} does not answer with JSON: is a server that reranks there?") from None


def said(reply: httpx.Response) -> str:
    """The message of an error reply, in whichever wire format."""
    try:
        content = reply.json()
        error = content.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        return str(message or content.get("message") or content["detail"])
    except (ValueError, KeyError, AttributeError):
        return reply.text[:200]


def retry_after_s(reply: httpx.Response, otherwise: float) -> float:
    """Seconds after which the server wants to be asked again."""
    try:
        if "retry-after-ms" in reply.headers:
            return max(0.0, float(reply.headers["retry-after-ms"]) / 1e3)
        return max(0.0, float(reply.headers.get("retry-after", otherwise)))
    except ValueError:
        return otherwise
