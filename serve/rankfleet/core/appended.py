"""Files to which one line after another is appended, so that what is there after a kill can be read."""

import errno
import os
from io import FileIO
from pathlib import Path


def append_whole(file: FileIO, lines: bytes) -> None:
    """Write all of these lines or nothing: a part of one would be in the way of the next. Raises OSError."""
    size = file.tell()
    try:
        if file.write(lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(size)
        file.seek(size)
        raise


def drop_half_line(path: Path) -> None:
    """Truncate a file to its last whole line: a killed run may have left half a line."""
    with path.open("r+b") as file:
        written = file.read()
        if not written.endswith(b"\n"):
            file.truncate(written.rfind(b"\n") + 1)
