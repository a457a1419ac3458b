"""Which fleets a user runs on this computer, so that a change reaches the one that is meant, never another cluster."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass

from rankfleet.cluster.environment import user_folder
from rankfleet.cluster.failures import LaunchError

NOTES = "fleets"  # a folder in `user_folder`: one file for each fleet that runs, named by the process that started it


@dataclass(frozen=True)
class Fleet:
    """One that runs on this computer. cluster: Ray's own address; token: the file with what opens it."""

    address: str
    port: int
    cluster: str
    token: str | None


def note_fleet(fleet: Fleet) -> None:
    """Write down for `apply` that this process runs a fleet."""
    folder = user_folder() / NOTES
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).write_text(json.dumps(asdict(fleet)), encoding="utf-8")


def forget_fleet() -> None:
    """This process runs one no more."""
    with suppress(OSError):
        (user_folder() / NOTES / str(os.getpid())).unlink(missing_ok=True)


def fleets() -> list[Fleet]:
    """This user's: what `note_fleet` has written in processes that still run."""
    found = []
    try:
        notes = sorted((user_folder() / NOTES).iterdir())
    except OSError:
        return []
    for note in notes:
        try:
            os.kill(int(note.name), 0)
            found.append(Fleet(**json.loads(note.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            note.unlink(missing_ok=True)  # its process was killed, and could not do so itself
    return found


def pick_fleet(found: list[Fleet], port: int | None) -> Fleet:
    """The one that is meant. Never another cluster that happens to run here. Raises LaunchError."""
    meant = [fleet for fleet in found if port in (None, fleet.port)]
    if not meant:
        where = "" if port is None else f" at port {port}"
        raise LaunchError(f"no fleet of yours runs on this computer{where}; start one with `rankfleet serve`")
    if len(meant) > 1:
        each = " or ".join(f"--port {fleet.port}" for fleet in meant)
        raise LaunchError(f"{len(meant)} fleets of yours run on this computer; say which one to change: {each}")
    return meant[0]
