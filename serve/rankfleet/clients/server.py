"""A server that reranks, by the wire format that it speaks."""

from collections.abc import Sequence

from rankfleet.clients.formats import WireFormat
from rankfleet.clients.http import JsonClient
from rankfleet.clients.parts import Scored, in_parts
from rankfleet.core.errors import RankfleetError


class RerankServer:
    """Scores documents by asking a server. model: as it names it; None for the one it has."""

    def __init__(self, format: WireFormat, server: JsonClient, model: str | None = None) -> None:
        self._format, self._server, self._model = format, server, model

    def timed(self, query: str, documents: Sequence[str]) -> Scored:
        """Scores of all documents, with time and bill. Raises RankfleetError that names the server."""
        return in_parts(documents, lambda part: self._score(query, part))

    def _score(self, query: str, documents: Sequence[str]) -> Scored:
        reply = self._server.ask("POST", self._format.path, self._format.body(query, [*documents], self._model))
        try:
            scores = self._format.scores(reply, len(documents))
        except RankfleetError as error:
            raise RankfleetError(f"{self._server.address}{self._format.path}: {error}") from error
        return Scored(scores, self._server.answered_s, *self._format.billed(reply))
