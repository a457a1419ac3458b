"""A wire format, as the HTTP layer sees it: paths, parsing of requests, writing of replies and errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Decision, Ranking, RerankRequest
from rankfleet.core.timing import Timing
from rankfleet.retrieval.bm25 import Hit


@dataclass(slots=True)
class ParsedRequest:
    """A request body that has been parsed. A dialect adds the fields that its replies need.

    request: what the router is asked for.
    texts_only: whether the texts in `request` are all that is kept of the body in memory until the reply is sent.
    """

    request: RerankRequest
    texts_only: bool


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
    status: int = 200


Parsed = TypeVar("Parsed", bound=ParsedRequest)
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
    """

    path: str
    summary: str
    body: type[BaseModel]
    example: Mapping[str, Any]
    reply_type: type
    parse: Callable[[bytes, RequestHeaders], Parsed]
    reply: Callable[[Outcome, Parsed], Reply]


@dataclass(frozen=True)
class Dialect:
    """A wire format.

    error: an error and the request's id to a reply that says both. `Retry-After` and the like are added to it for every
    dialect (`api/errors.py`).
    error_type: the JSON of an error, for the OpenAPI page.
    rerank, plan, search: the routes, by what the fleet does for them.
    """

    name: str
    error: Callable[[RankfleetError, str], Reply]
    error_type: type
    rerank: Sequence[Route[Any, Ranking]]
    plan: Sequence[Route[Any, Decision]] = ()
    search: Sequence[Route[Any, SearchOutcome]] = ()

    @property
    def routes(self) -> tuple[Route[Any, Any], ...]:
        return (*self.rerank, *self.plan, *self.search)
