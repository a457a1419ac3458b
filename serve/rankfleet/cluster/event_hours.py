"""Files of events whose hour has passed: Parquet takes their place, goes to a store behind a URL, and is removed by age
and size.

A folder has DAY/HOUR/ROUTER.jsonl and DAY/HOUR/feedback-ROUTER.jsonl, by the hour (UTC) in which lines were written.
Several routers may look after one folder at the same time: whatever one of them does to a file may be done twice, with
the same result.
"""

import hashlib
import logging
import os
import re
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from rankfleet.cluster.decision_file import check_folder
from rankfleet.core.errors import ConfigError
from rankfleet.core.events import lines_in_sql, quoted, router_of, row_type
from rankfleet.core.sections import Events, is_url
from rankfleet.engine.native.library import cache_folder

LEFT_S = 600.0  # after its hour, from when on the router of a file counts as dead if the file is still there
FILE = re.compile(r"/(\d{4}-\d\d-\d\d/\d\d)/[^/]+\.(?:jsonl|parquet|part)$")
# Of DuckDB. One thread, because the rest of the computer serves; no file beside the one that is written.
LIMITS: dict[str, Any] = {
    "threads": 1,
    "memory_limit": "256MB",
    "preserve_insertion_order": False,
    "temp_directory": "",
    "autoinstall_known_extensions": False,
}

log = logging.getLogger("ray.serve")


def hour_of(unix_s: float) -> str:
    """`2026-12-01/08`, in UTC: the folder of an hour. Later ones sort behind earlier ones."""
    return time.strftime("%Y-%m-%d/%H", time.gmtime(unix_s))


def local_folder(folder: str) -> Path:
    """Where lines are written: the folder itself, or one for what is on its way to a URL. Raises OSError if there is no
    place for that."""
    if not is_url(folder):
        return Path(folder)
    return cache_folder() / "events" / hashlib.sha256(folder.encode()).hexdigest()[:12]


def opened(folder: str) -> tuple[Any, str]:
    """The file system of fsspec and the path in it. Raises ConfigError, which names the key."""
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(folder)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"events.folder: {folder}: {error}") from error
    return files, root


def check_events(settings: Events) -> None:
    """Make the folder that lines are written to. Raises ConfigError if that is not possible, or if nothing opens the
    URL."""
    if settings.folder is not None:
        opened(settings.folder)
        try:
            check_folder("events.folder", str(local_folder(settings.folder)))
        except OSError as error:
            raise ConfigError(f"events.folder: {error}") from error


class PastHours:
    """Looks after the files of past hours, for one router."""

    def __init__(self, router: str) -> None:
        """router: its name, which is that of its files."""
        self._router = router
        self._stay_lines: set[Path] = set()
        self._may_compact = True

    def sweep(self, settings: Events, hour: str, now_s: float, stopped: bool = False) -> int:
        """Do what is due. Returns the bytes of all files that are left.

        settings: with a folder. hour: in which this router writes now. stopped: it writes no more. Raises OSError.
        """
        assert settings.folder is not None
        folder = local_folder(settings.folder)
        over = [path for path in sorted(folder.glob("*/*/[!.]*")) if self._is_over(path, hour, now_s, stopped)]
        for path in over:
            if path.suffix == ".jsonl" and self._may_compact and path not in self._stay_lines:
                self._compact(path)
        if is_url(settings.folder) and over:
            try:
                self._move(folder, over, settings.folder)
                self._prune(settings.folder, settings, hour, now_s)
            except Exception as error:  # of any store; what is here stays bounded all the same
                log.error("events of past hours wait in %s to go to %s: %r", folder, settings.folder, error)
        return self._prune(str(folder), settings, hour, now_s)

    def _is_over(self, path: Path, hour: str, now_s: float, stopped: bool) -> bool:
        """Whether nothing will be appended to a file any more."""
        its_hour = f"{path.parents[1].name}/{path.parent.name}"
        if router_of(path.stem) == self._router:
            return stopped or its_hour < hour
        return its_hour < hour_of(now_s - LEFT_S)

    def _compact(self, path: Path) -> None:
        """Put Parquet into the place of a file of lines. If that is not possible, the lines stay."""
        try:
            compact(path)
        except ImportError:
            self._may_compact = False
            log.warning("events stay JSON lines, because DuckDB is missing: pip install 'rankfleet[experiments]'")
        except Exception as error:
            if path.exists():  # else another router was faster
                self._stay_lines.add(path)
                log.error("%s stays as it is: %r", path, error)

    def _move(self, folder: Path, paths: list[Path], url: str) -> None:
        """Move files to the store behind a URL, as Parquet where they have become that."""
        files, root = opened(url)
        written = {path.with_suffix(".parquet") for path in paths}
        for path in filter(Path.exists, sorted({*written, *paths})):
            there = f"{root}/{path.relative_to(folder)}"
            files.makedirs(os.path.dirname(there), exist_ok=True)
            files.put_file(str(path), there)
            remove(path)

    def _prune(self, folder: str, settings: Events, hour: str, now_s: float) -> int:
        """Remove the files of the oldest hours, but not of the present one, as long as they are too old or too large
        together. Returns the bytes of those that are left."""
        files, root = opened(folder)
        files.invalidate_cache()
        found = [
            (match[1], path, info["size"])
            for path, info in files.find(root, detail=True).items()
            if (match := FILE.match(path.removeprefix(root.rstrip("/"))))
        ]
        left = sum(size for _, _, size in found)
        first_day = hour_of(now_s - settings.keep_days * 86_400.0)[:10]
        for its_hour, path, size in sorted(found):
            if its_hour < first_day or (left > settings.max_mb * 1e6 and its_hour < hour):
                if is_url(folder):
                    files.rm_file(path)
                else:
                    remove(Path(path))
                left -= size
        return left


def compact(path: Path) -> None:
    """Put Parquet into the place of a file of JSON lines: whole, before the lines are removed.

    Raises ImportError without DuckDB, OSError, and what DuckDB raises.
    """
    import duckdb

    parquet, part = path.with_suffix(".parquet"), path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with duckdb.connect(config=LIMITS) as connection:
            rows = f"SELECT * EXCLUDE filename {lines_in_sql(row_type(path.name), [str(path)])}"
            connection.execute(
                f"COPY ({rows}) TO {quoted(str(part))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480)"
            )
        part.replace(parquet)
    finally:
        part.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, and its folders if they are empty."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()
        path.parents[1].rmdir()
