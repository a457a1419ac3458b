"""Digests of a model's files, with which processes on different machines tell whether they hold the same model."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rankfleet.core.errors import CheckpointError

DIGITS = 16  # 64 bits: they detect mistakes, not forgery


def digest_of(folder: Path, files: Iterable[Path]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over the names, relative to the folder, and contents of these files.

    Neither the order of `files` nor duplicates matter. In a shell:

        sha256sum FILES | LC_ALL=C sort -k 2 | sha256sum | cut -c -16

    Raises CheckpointError for a file that cannot be read.
    """
    lines = []
    for path in set(files):
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        lines.append((path.relative_to(folder).as_posix().encode(), digest.encode()))
    listing = b"".join(b"%s  %s\n" % (digest, name) for name, digest in sorted(lines))
    return hashlib.sha256(listing).hexdigest()[:DIGITS]
