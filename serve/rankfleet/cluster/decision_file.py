"""The file to which a router writes a sample of its decisions."""

import errno
import logging
import os
import random
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import DecisionLog
from rankfleet.router.decision_log import line_of

MAX_BYTES = 100_000_000  # of a file; the one before it is kept
LOG_PERIOD_S = 60.0  # how often the router's log says that decisions cannot be written

log = logging.getLogger("ray.serve")


def check_folder(settings: DecisionLog) -> None:
    """Make the folder. Raises ConfigError if no file can be written there."""
    if settings.folder is not None:
        try:
            Path(settings.folder).mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=settings.folder).close()
        except OSError as error:
            raise ConfigError(f"decision_log.folder: {settings.folder}: {error.strerror}") from error


class DecisionFile:
    """Writes decisions as lines of JSON, as the settings say at the time. If it cannot, no request fails."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic, max_bytes: int = MAX_BYTES) -> None:
        """name: of the file, without suffix. max_bytes: of a file, as MAX_BYTES."""
        self._name = name
        self._clock = clock
        self._max_bytes = max_bytes
        self._random = random.Random()
        self._settings = DecisionLog()
        self._file: FileIO | None = None
        self._quiet_until_s = -float("inf")

    def adjust(self, settings: DecisionLog) -> None:
        """Go by these settings. The file is opened when the first decision is written."""
        if settings.folder != self._settings.folder:
            self._close()
        self._settings = settings

    def write(self, *decision: Any) -> None:
        """decision: the arguments of `line_of`."""
        folder = self._settings.folder
        if folder is None or self._random.random() >= self._settings.share:
            return
        try:
            self._append(line_of(*decision) + b"\n", Path(folder) / f"{self._name}.jsonl")
        except Exception as error:
            if (now_s := self._clock()) >= self._quiet_until_s:
                self._quiet_until_s = now_s + LOG_PERIOD_S
                log.error("a decision cannot be written to %s; requests go on: %r", folder, error)

    def _append(self, line: bytes, path: Path) -> None:
        """Write a whole line or nothing: a part of one would end every replay of the file. Raises OSError."""
        if self._file is not None and self._file.tell() + len(line) > self._max_bytes:
            self._close()
            path.replace(f"{path}.1")
        self._file = file = self._file or FileIO(path, "a")
        size = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            file.seek(size)
            raise

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
