"""The queries and documents of a native request: `query` or `queries`, with one list of documents or one for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rankfleet.core.errors import InvalidRequest


@dataclass(frozen=True)
class AskedFor:
    """What is to be ranked for what.

    query, queries, counts: as in `RerankRequest`. documents: of all queries, one query's after the other's; or once,
    where all queries have the same. places: of each document in the body.
    """

    query: str
    documents: list[Any]
    places: Sequence[int | str]
    queries: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether several queries have the same documents."""
        return len(self.queries) > 1 and not self.counts

    @staticmethod
    def of(query: str | None, queries: list[str] | None, documents: list[Any]) -> "AskedFor":
        """Of these fields of a body. Raises InvalidRequest."""
        if queries is None:
            if query is None:
                raise InvalidRequest("request body: query: Field required\nsee /docs for the format")
            return AskedFor(query, documents, range(len(documents)))
        if query is not None or not queries:
            raise InvalidRequest("request body: queries: send at least one, and no query beside them")
        if not any(isinstance(each, list) for each in documents):
            return AskedFor(queries[0], documents, range(len(documents)), tuple(queries))
        if len(documents) != len(queries) or not all(isinstance(each, list) for each in documents):
            lists = f"a list of {len(queries)} lists, one for each of the queries"
            raise InvalidRequest(f"request body: documents: send one list for all queries, or {lists}")
        places = [f"{place}.{i}" for place, each in enumerate(documents) for i in range(len(each))]
        every = [document for each in documents for document in each]
        return AskedFor(queries[0], every, places, tuple(queries), tuple(map(len, documents)))
