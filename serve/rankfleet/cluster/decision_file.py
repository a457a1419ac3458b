"""The file to which a router writes a sample of its decisions."""

import logging
import random
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rankfleet.core.quiet import quietly
from rankfleet.core.sections import DecisionLog
from rankfleet.router.decision_log import line_of

MAX_BYTES = 100_000_000  # of a file; the one before it is kept


class DecisionFile:
    """Writes decisions as lines of JSON, as the settings say at the time. A full disk fails no request."""

    def __init__(self, name: str) -> None:
        """name: of the file, without suffix."""
        self._name = name
        self._random = random.Random()
        self._settings = DecisionLog()
        self._log = logging.Logger(f"decisions of {name}")
        self.write = quietly(self._write)

    def adjust(self, settings: DecisionLog) -> None:
        """Go by these settings. Raises OSError if the folder cannot be made."""
        if settings.folder != self._settings.folder:
            for handler in [*self._log.handlers]:
                self._log.removeHandler(handler)
                handler.close()
            if settings.folder is not None:
                folder = Path(settings.folder).expanduser()
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{self._name}.jsonl"
                self._log.addHandler(RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8"))
        self._settings = settings

    def _write(self, *decision: Any) -> None:
        """decision: the arguments of `line_of`."""
        if self._settings.folder is not None and self._random.random() < self._settings.share:
            self._log.info(line_of(*decision))
