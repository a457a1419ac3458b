"""`rankfleet serve` as a user runs it: a process of its own that Ctrl-C ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankfleet.cluster.environment import free_port

RANKFLEET = Path(sys.executable).parent / "rankfleet"
READY = "Ctrl-C stops it"  # the last line that a fleet prints once it ranks
START_S = 180
STOP_S = 30


@dataclass
class Serving:
    """A `rankfleet serve` process.

    `output`: the file with all that it prints; `started`: ids of all processes that were seen below it.
    """

    process: "subprocess.Popen[bytes]"
    output: Path
    port: int
    started: set[int] = field(default_factory=set)

    def wait_for(self, text: str) -> str:
        """Everything printed so far, once that contains `text`, the process has ended, or START_S have passed."""
        deadline = time.monotonic() + START_S
        while text not in self.output.read_text() and self.process.poll() is None and time.monotonic() < deadline:
            self.started |= descendants(self.process.pid)
            time.sleep(0.1)
        return self.output.read_text()

    def stop(self) -> int:
        """Press Ctrl-C where the process still runs; its exit status."""
        if self.process.poll() is None:
            self.started |= descendants(self.process.pid)
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_S)

    def left_running(self) -> set[int]:
        """Ids of the started processes that still run STOP_S after the end."""
        deadline = time.monotonic() + STOP_S
        while (left := {pid for pid in self.started if runs(pid)}) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


@contextlib.contextmanager
def serving(
    config: str | Path,
    output: Path,
    command: Sequence[str | Path] = (RANKFLEET,),
    environment: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> Iterator[Serving]:
    """Run `rankfleet serve` on a free port. On leaving, it is ended and none of its processes may be left."""
    port = free_port()
    with output.open("w") as sink:
        process = subprocess.Popen(
            [*command, "serve", "--config", config, "--port", str(port)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
    fleet = Serving(process, output, port)
    try:
        yield fleet
    finally:
        try:
            fleet.stop()
        except subprocess.TimeoutExpired:
            for pid in {process.pid, *fleet.started}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
    assert not fleet.left_running(), f"still running after Ctrl-C:\n{output.read_text()}"


def descendants(pid: int) -> set[int]:
    """Ids of all processes below `pid`."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", status.read_text(), re.MULTILINE)
        except OSError:  # it has ended meanwhile
            continue
        if parent:
            children.setdefault(int(parent[1]), []).append(int(status.parent.name))
    found: set[int] = set()
    front = [pid]
    while front:
        front = [child for parent_pid in front for child in children.get(parent_pid, []) if child not in found]
        found |= set(front)
    return found


def runs(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
