"""The file to which a router writes a sample of its decisions."""

import logging
import random
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rankfleet.core.appended import append_whole
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import DecisionLog
from rankfleet.router.decision_log import line_of

MAX_BYTES = 100_000_000  # of a file; the one before it is kept
LOG_PERIOD_S = 60.0  # how often the router's log says that decisions cannot be written

log = logging.getLogger("ray.serve")


def check_folder(key: str, folder: str) -> None:
    """Make the folder. Raises ConfigError, which names the key, if no file can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{key}: {folder}: {error.strerror}") from error


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
        """Raises OSError."""
        if self._file is not None and self._file.tell() + len(line) > self._max_bytes:
            self._close()
            path.replace(f"{path}.1")
        self._file = self._file or FileIO(path, "a")
        append_whole(self._file, line)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
