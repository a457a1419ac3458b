"""The parent's side of a contender's process."""

import json
import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

from rankfleet.core.errors import RankfleetError

LOG_TAIL = 1500  # characters of the log that are shown when a process has died


class ContenderFailed(RankfleetError):
    """A contender failed at an order; the contest goes on without it."""


class WorkerProcess:
    """A `benchmarks.contest.worker`, which runs one order at a time and is idle in between."""

    def __init__(self, threads: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "RAYON_NUM_THREADS": str(threads),  # the tokenizers' threads
            "HF_HUB_OFFLINE": "1",  # all models have been fetched
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        # With `active` or a long blocking time, idle threads would spin while other contenders are timed.
        for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
            environment.pop(name, None)
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contest.worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Run an order and return the worker's answer. Raises ContenderFailed for an error or a missing answer."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContenderFailed(f"its process ended with status {self._process.wait()}: {self._tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(answer["error"])
        return answer

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-LOG_TAIL:].strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream:
                stream.close()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
