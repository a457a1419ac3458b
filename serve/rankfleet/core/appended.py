"""Files to which a long run appends one line after another, so that a killed run goes on where it ended."""

from pathlib import Path


def drop_half_line(path: Path) -> None:
    """Truncate a file to its last whole line: a killed run may have left half a line."""
    with path.open("r+b") as file:
        written = file.read()
        if not written.endswith(b"\n"):
            file.truncate(written.rfind(b"\n") + 1)
