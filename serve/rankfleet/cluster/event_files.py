"""The files to which a router writes what became of its requests, and the feedback that came for them.

Lines wait in memory for at most FLUSH_S, and a thread writes them. What it has written is there after the process is
killed. Requests wait for none of it, and no error here fails one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from io import FileIO

import orjson

from rankfleet.cluster.event_hours import PastHours, hour_of, local_folder
from rankfleet.core.appended import append_whole
from rankfleet.core.events import FILE_PREFIXES, RequestEvent, Row
from rankfleet.core.sections import Events

FLUSH_S = 0.5
SWEEP_S = 60.0
MAX_QUEUED = 10_000  # events and feedback in memory. Feedback, which clients may send as they like, gets half of it
LOG_PERIOD_S = 60.0  # how often the log says that some cannot be written
STOP_S = 10.0  # how long a stop waits for each thread
LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS

log = logging.getLogger("ray.serve")


class EventFiles:
    """Writes events and feedback of one router, as the settings say at the time."""

    def __init__(
        self,
        router: str,
        on_dropped: Callable[[int], None] = lambda count: None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        """router: its name, which no other router has had. on_dropped: told how many were not written.
        wall_clock: seconds since 1970. clock: seconds of a steady clock."""
        self._router = router
        self._on_dropped = on_dropped
        self._wall_clock = wall_clock
        self._clock = clock
        self._max_queued = max_queued
        self._past = PastHours(router)
        self._queue: deque[Row] = deque()
        self._settings = self._wanted = Events()
        self._hour = ""
        self._has_room = True
        self._refused = self._counted = 0  # rows for which the queue had no room, and those of them that are reported
        self._unlogged = 0
        self._quiet_until_s = -float("inf")
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def adjust(self, settings: Events) -> None:
        """Go by these settings, from the next flush on."""
        self._wanted = settings

    def start(self) -> None:
        """Flush and sweep in threads from now on."""
        if not self._threads:
            for call, period_s in ((self.flush, FLUSH_S), (self.sweep, SWEEP_S)):
                thread = threading.Thread(target=self._repeat, args=(call, period_s), name="events", daemon=True)
                self._threads.append(thread)
                thread.start()

    def write(self, row: Row) -> bool:
        """Queue an event or feedback. False if there is no room."""
        limit = self._max_queued if isinstance(row, RequestEvent) else self._max_queued // 2
        if len(self._queue) >= limit:
            self._refused += 1
            return False
        self._queue.append(row)
        return True

    def flush(self) -> None:
        """Write what is queued, by the settings under which it came. Not for two threads at a time."""
        if self._settings.folder is None:
            self._settings = self._wanted
        # A clock that is set back does not bring back an hour whose file may be Parquet by now.
        self._hour = max(self._hour, hour_of(self._wall_clock()))
        rows = [self._queue.popleft() for _ in range(len(self._queue))]
        for kind, prefix in FILE_PREFIXES.items():
            if of_kind := [row for row in rows if isinstance(row, kind)]:
                self._write(prefix, of_kind)
        if new := self._refused - self._counted:
            self._counted += new
            self._dropped(new, "more came than could be written")
        self._settings = self._wanted

    def sweep(self, stopped: bool = False) -> None:
        """Look after past hours, and see whether there is room for more."""
        settings, now_s = self._settings, self._wall_clock()
        if settings.folder is not None:
            try:
                left = self._past.sweep(settings, self._hour, now_s, stopped)
                self._has_room = left <= settings.max_mb * 1e6
            except Exception as error:
                log.error("events: past hours in %s are left as they are for now: %r", settings.folder, error)

    def stop(self) -> None:
        """Write what is queued, and make Parquet of it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_S)
        self.flush()
        self.sweep(stopped=True)

    def _repeat(self, call: Callable[[], None], period_s: float) -> None:
        while not self._stopping.wait(period_s):
            try:
                call()
            except Exception:
                log.exception("events: %s failed; requests go on", call.__name__)

    def _write(self, prefix: str, rows: list[Row]) -> None:
        folder = self._settings.folder
        if folder is None:
            return
        if not self._has_room:
            self._dropped(len(rows), "this hour alone has more than events.max_mb")
            return
        try:
            path = local_folder(folder) / self._hour / f"{prefix}{self._router}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileIO(path, "a") as file:
                append_whole(file, b"".join(orjson.dumps(row, option=LINE) for row in rows))
        except Exception as error:
            self._dropped(len(rows), repr(error))

    def _dropped(self, count: int, why: str) -> None:
        """Count what is not written, and log it once a minute."""
        self._on_dropped(count)
        self._unlogged += count
        if (now_s := self._clock()) >= self._quiet_until_s:
            self._quiet_until_s = now_s + LOG_PERIOD_S
            log.error(
                "%d events were not written to %s; requests go on: %s", self._unlogged, self._settings.folder, why
            )
            self._unlogged = 0
