"""How much memory the cgroup of this process leaves it: in a container /proc/meminfo tells of the whole host."""

from collections.abc import Iterator
from pathlib import Path

# Of each version: the files of limit and use, and the entry of memory.stat that counts pages of files which the
# kernel drops before it refuses memory. v2 counts its children in, v1 in the entries that are called total.
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def memory_left(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that may still be taken: the least of limit − (in use − inactive file pages) over the process's cgroup and
    all above it; None without a limit. v1 writes "no limit" as a number beyond any memory, which is as good.

    own: lines `id:controllers:path`; mount: where cgroups are mounted.

    A container may see its path from the host's root, but only its own cgroup mounted: levels that are not there are
    passed over, and the limit is found at the root of the mount.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    lefts = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            lefts += [_left(level, *V2) for level in _levels(mount, path)]
        elif "memory" in controllers.split(","):
            lefts += [_left(level, *V1) for level in _levels(mount / "memory", path)]
    return min((left for left in lefts if left is not None), default=None)


def _levels(root: Path, path: str) -> Iterator[Path]:
    """The folder of this cgroup and of each above it, up to the root."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # the process was moved out of the cgroups that it can see
        parts = []
    for depth in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:depth])


def _left(level: Path, limit_file: str, used_file: str, inactive_entry: str) -> int | None:
    limit = _number(level / limit_file)
    if limit is None:
        return None
    used = _number(level / used_file) or 0
    return max(0, limit - max(0, used - _entry(level / "memory.stat", inactive_entry)))


def _number(path: Path) -> int | None:
    """None for a file that is missing or holds no number of bytes, such as `max`."""
    try:
        number = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None


def _entry(path: Path, name: str) -> int:
    """The number behind this name; 0 where there is none."""
    try:
        return int(dict(line.split() for line in path.read_text(encoding="ascii").splitlines())[name])
    except (OSError, ValueError, KeyError):
        return 0
