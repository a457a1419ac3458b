"""The fleets that this user runs on this computer, so that `rankfleet apply` reaches the right one and never another
cluster, and that two commands do not change the same at once."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rankfleet.cluster.environment import user_folder
from rankfleet.cluster.failures import LaunchError


@dataclass(frozen=True)
class RunningFleet:
    """A fleet that runs on this computer.

    `address`, `port`: of its HTTP API. `metrics`: URL of this node's Prometheus metrics. `cluster`: address of its Ray
    cluster. `token`: path of the file with the token that Ray asks for; None if the token is in no file.
    """

    address: str
    port: int
    metrics: str
    cluster: str
    token: str | None


def registry() -> Path:
    """A folder with one file per running fleet, named by the id of the process that started it. Raises LaunchError."""
    folder = user_folder() / "fleets"
    folder.mkdir(exist_ok=True)
    return folder


def register_fleet(fleet: RunningFleet) -> None:
    """Write down that this process runs a fleet."""
    (registry() / str(os.getpid())).write_text(json.dumps(asdict(fleet)), encoding="utf-8")


def unregister_fleet() -> None:
    """Write down that this process runs no fleet any more."""
    with suppress(OSError, LaunchError):
        (registry() / str(os.getpid())).unlink(missing_ok=True)


def running_fleets() -> list[RunningFleet]:
    """This user's registered fleets whose process still runs. Raises LaunchError."""
    found = []
    for file in sorted(registry().iterdir()):
        try:
            os.kill(int(file.name), 0)
            found.append(RunningFleet(**json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            file.unlink(missing_ok=True)  # its process was killed and could not remove it
    return found


@contextmanager
def one_at_a_time(what: str, other: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process of this user is inside with the same `what`. Raises LaunchError.

    other: what `progress` says is waited for.
    """
    import fcntl

    with (user_folder() / what).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for {other}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def one_start_at_a_time(progress: Callable[[str], None]) -> AbstractContextManager[None]:
    """`one_at_a_time`, until a fleet has bound its ports: two that look for free ones together find the same."""
    return one_at_a_time("starting", "another fleet of yours that is starting", progress)


def pick_fleet(fleets: list[RunningFleet], port: int | None) -> RunningFleet:
    """The fleet at this port, or the only one if no port is given. Raises LaunchError if there is none or several."""
    matching = [fleet for fleet in fleets if port in (None, fleet.port)]
    if not matching:
        where = "" if port is None else f" at port {port}"
        raise LaunchError(f"no fleet of yours runs on this computer{where}; start one with `rankfleet serve`")
    if len(matching) > 1:
        ports = " or ".join(f"--port {fleet.port}" for fleet in matching)
        raise LaunchError(f"{len(matching)} fleets of yours run on this computer; say which one to change: {ports}")
    return matching[0]
