"""The memory that cgroup limits leave this process: in a container /proc/meminfo describes the whole host."""

from collections.abc import Iterator, Sequence
from pathlib import Path

# For each version: the files of limit and usage, and how entries of memory.stat begin. v2's entries include child
# cgroups; of v1's, those named total do.
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
V2 = ("memory.max", "memory.current", "")
# Entries of memory.stat that count file pages. The kernel reclaims both before it refuses memory, and the inactive ones
# without slowing anything down.
INACTIVE, ALL_FILE_PAGES = ("inactive_file",), ("inactive_file", "active_file")


def memory_left(
    own: Path = Path("/proc/self/cgroup"),
    mount: Path = Path("/sys/fs/cgroup"),
    file_pages: Sequence[str] = INACTIVE,
) -> int | None:
    """Bytes that may still be allocated; None without a limit.

    The minimum of limit − (usage − file pages) over the process's cgroup and its ancestors. v1 writes "no limit" as a
    number larger than any memory, which needs no special case.

    `own`: file with lines `id:controllers:path`. `mount`: where cgroups are mounted. `file_pages`: those that count as
    free, INACTIVE or ALL_FILE_PAGES.

    A container may see its path relative to the host's root with only its own cgroup mounted. Levels that do not exist
    are skipped, and the limit is found at the root of the mount.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    remaining = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            remaining += [_left(level, *V2, file_pages) for level in _levels(mount, path)]
        elif "memory" in controllers.split(","):
            remaining += [_left(level, *V1, file_pages) for level in _levels(mount / "memory", path)]
    return min((left for left in remaining if left is not None), default=None)


def _levels(root: Path, path: str) -> Iterator[Path]:
    """The folders of this cgroup and of its ancestors, up to the root."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # the process was moved out of the cgroups that it can see
        parts = []
    for depth in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:depth])


def _left(level: Path, limit_file: str, used_file: str, prefix: str, file_pages: Sequence[str]) -> int | None:
    """What the limit of one cgroup leaves; None without a limit."""
    limit = _number(level / limit_file)
    if limit is None:
        return None
    used = _number(level / used_file) or 0
    reclaimed = sum(_entry(level / "memory.stat", prefix + pages) for pages in file_pages)
    return max(0, limit - max(0, used - reclaimed))


def _number(path: Path) -> int | None:
    """The number in this file; None if the file is missing or holds something else, such as `max`."""
    try:
        number = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None


def _entry(path: Path, name: str) -> int:
    """The number of this entry; 0 if there is none."""
    try:
        return int(dict(line.split() for line in path.read_text(encoding="ascii").splitlines())[name])
    except (OSError, ValueError, KeyError):
        return 0
