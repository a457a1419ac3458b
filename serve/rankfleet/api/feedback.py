"""Takes feedback for answers, and queues it to be written."""

from collections.abc import Callable
from dataclasses import replace

from fastapi import Request, Response

from rankfleet.api.dialects.dialect import Route
from rankfleet.api.http import RequestReader, respond
from rankfleet.core.errors import NotConfigured, Unavailable
from rankfleet.core.events import Feedback

Sink = Callable[[Feedback], bool]  # False if there is no room


class FeedbackHandler:
    """Answers the `feedback` routes of all dialects."""

    def __init__(self, sink: Sink | None, reader: RequestReader, wall_clock: Callable[[], float]) -> None:
        """sink: None where the fleet file names no folder for events. wall_clock: seconds since 1970."""
        self._sink = sink
        self._reader = reader
        self._wall_clock = wall_clock

    async def take(self, route: Route[Feedback, None], request: Request) -> Response:
        """Raises NotConfigured where nothing would be written, and Unavailable if too much waits to be."""
        if self._sink is None:
            raise NotConfigured("this fleet keeps no feedback: name a folder under `events:` in the fleet file")
        route, feedback = await self._reader.read(request, route)
        if not self._sink(replace(feedback, at_s=self._wall_clock())):
            raise Unavailable("too much feedback waits to be written; send it again in a second")
        return respond(request, route.reply(None, feedback), route.status)
