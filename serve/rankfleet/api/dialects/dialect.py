"""A wire format, as the HTTP layer sees it: paths, parsing of requests, writing of replies and errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from operator import or_
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel

from rankfleet.api.headers import RequestHeaders
from rankfleet.core.decisions import Decision
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.core.events import Feedback
from rankfleet.core.messages import Ranking, RerankRequest
from rankfleet.core.timing import Timing
from rankfleet.retrieval.bm25 import Hit
from rankfleet.router.service import RankingService


@dataclass(slots=True)
class ParsedRequest:
    """A request body that has been parsed. A dialect adds the fields that its replies need.

    request: what the router is asked for.
    documents: as sent, where the results are to contain them.
    """

    request: RerankRequest
    documents: list[Any] | None

    @property
    def kept(self) -> list[Any]:
        """What of the body is kept in memory until the reply is sent."""
        texts = self.request.documents
        as_sent = [] if self.documents is None or self.documents is texts else [self.documents]
        return [texts, self.request.queries, *as_sent]

    @property
    def copies(self) -> int:
        """How many times the reply may hold the documents as they were sent."""
        return 1


@dataclass(slots=True)
class ParsedSearch(ParsedRequest):
    """A search: `request` has no documents yet.

    top_k: how many documents to retrieve; None for the fleet's default.
    """

    top_k: int | None


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found. A document's `index` in `ranking` is its place in `hits`.

    hits: retrieved documents, best first.
    ranking: None where nothing was found.
    timing: of the whole search, as in `ranking`.
    """

    hits: list[Hit]
    ranking: Ranking | None
    timing: Timing


class Reply(NamedTuple):
    """A response before it is written as JSON."""

    content: Any
    headers: Mapping[str, str] = {}


Parsed = TypeVar("Parsed")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Route(Generic[Parsed, Outcome]):
    """One path that takes POST.

    summary: one line, for `GET /` and the OpenAPI page.
    body: the JSON of a request, for the OpenAPI page. Its field names are refused in the query string.
    example: a body that every fleet can answer, for the OpenAPI page.
    reply_type: the JSON of a reply, for the OpenAPI page.
    parse: a whole body and the request's headers to what the router is asked for. Raises InvalidRequest.
    reply: what came of the request, and the request, to a reply.
    status: of that reply.
    """

    path: str
    summary: str
    body: type[BaseModel]
    example: Mapping[str, Any]
    reply_type: type
    parse: Callable[[bytes, RequestHeaders], Parsed]
    reply: Callable[[Outcome, Parsed], Reply]
    status: int = 200

    @property
    def body_schema(self) -> dict[str, Any]:
        return schema_of(self.body)

    def takes_long(self, body: bytes) -> bool:
        """Whether parsing this body may take a while: it names fields of structured documents to read, or may do so by
        escapes."""
        escaped = b"\\" in body and b"\\u" in body  # the first is found forty times as fast
        return "rank_fields" in self.body.model_fields and (escaped or b'"rank_fields"' in body)

    def also_at(self, *paths: str) -> list["Route[Parsed, Outcome]"]:
        """This route, and the same at these paths."""
        return [self, *(replace(self, path=path) for path in paths)]


@dataclass(frozen=True)
class About:
    """One path that takes GET and answers what clients of the dialect ask about the server. Fields as in `Route`."""

    path: str
    summary: str
    reply_type: type
    reply: Callable[[RankingService], Any]


@dataclass(frozen=True)
class Dialect:
    """A wire format.

    base: what paths begin with that belong to this dialect even if nothing is there, e.g. `/tei`; empty for none.
    error: an error, its status and the request's id to the JSON that says what is wrong. `Retry-After` and the like are
        added to its headers for every dialect (`api/errors.py`).
    error_type: that JSON, for the OpenAPI page.
    rerank, plan, search, feedback: the routes, by what the fleet does for them.
    about: what else clients ask.
    statuses: by the status that an error has in `core/errors.py`, the status that it has here, where they differ.
    """

    name: str
    error: Callable[[RankfleetError, int, str], Any]
    error_type: type
    rerank: Sequence[Route[Any, Ranking]]
    plan: Sequence[Route[Any, Decision]] = ()
    search: Sequence[Route[Any, SearchOutcome]] = ()
    feedback: Sequence[Route[Feedback, None]] = ()
    about: Sequence[About] = ()
    base: str = ""
    statuses: Mapping[int, int] = field(default_factory=dict)

    def status_of(self, status: int) -> int:
        return self.statuses.get(status, status)

    @property
    def routes(self) -> tuple[Route[Any, Any], ...]:
        return (*self.rerank, *self.plan, *self.search, *self.feedback)


@dataclass(frozen=True)
class SharedRoute:
    """A path that several dialects have. A request belongs to the one whose field its body has.

    routes: by that field. status: of a reply.
    dialects: those of the routes, and the native one, in whose form errors are until the body tells whose it is.
    """

    path: str
    summary: str
    routes: Mapping[str, Route[Any, Ranking]]
    dialects: Sequence[Dialect]
    status: int = 200

    def told_by(self, body: bytes) -> Route[Any, Ranking]:
        """Raises InvalidRequest unless exactly one of the fields is in the body."""
        # A quoted name that is nowhere in the body is no field of it. One that is there may be a text or lie deeper.
        fields = [name for name in self.routes if f'"{name}"'.encode() in body]
        if len(fields) != 1:
            fields = [name for name in self.routes if name in top_level(body)]
        if len(fields) == 1:
            return self.routes[fields[0]]
        formats = " or ".join(f"{name} (as {route.path} takes it)" for name, route in self.routes.items())
        raise InvalidRequest(f"request body: send either {formats}")

    @property
    def body_schema(self) -> dict[str, Any]:
        return {"anyOf": [route.body_schema for route in self.routes.values()]}

    @property
    def example(self) -> Mapping[str, Any]:
        return next(iter(self.routes.values())).example

    @property
    def reply_type(self) -> Any:
        return reduce(or_, (route.reply_type for route in self.routes.values()))


@cache
def schema_of(body: type[BaseModel]) -> dict[str, Any]:
    return body.model_json_schema(ref_template="#/components/schemas/{model}")


def top_level(body: bytes) -> dict[str, Any]:
    """The fields of a body. Raises InvalidRequest unless it is a JSON object."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"request body: Invalid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("request body: should be an object")
    return parsed
