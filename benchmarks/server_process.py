"""Servers that benchmarks start: each a process of its own, ended with all that it has started."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.paths import ROOT

RANKFLEET = [sys.executable, "-c", "from rankfleet.cli import main; main()"]
READY = "Ctrl-C stops it"  # the end of what a fleet prints when it ranks
START_S, END_S, POLL_S = 300.0, 60.0, 0.2


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until it is left, also by SIGTERM. log: gets what it prints."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        with contextlib.suppress(ProcessLookupError):  # what Ctrl-C does not end
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        signal.signal(signal.SIGTERM, before)


def environment() -> dict[str, str]:
    """Modules are those of this repository in any folder, and lines as wide as a page."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "serve"))), "COLUMNS": "118"}


@contextlib.contextmanager
def serving(command: Sequence[str | Path], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a fleet in this folder until it is left, from when it ranks. Its output is in `serve.log` there.

    Raises RuntimeError, with the output, if it ends or takes longer than START_S.
    """
    log = folder / "serve.log"
    with started(command, log, environment(), folder) as process:
        until_s = time.monotonic() + START_S
        while READY not in log.read_text():
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(log.read_text())
            time.sleep(POLL_S)
        yield process
