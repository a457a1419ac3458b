"""A cross-encoder that Sentence Transformers runs, in a process of its own, apart from the engine's threads.

The process reads lines of JSON, {"query": …, "documents": […]}, and answers each with a line: {"scores": […]}, or
{"error": …}. Its first line is {"identity": …}, or {"error": …} where the model cannot be loaded. Scores are logits.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, TextIO

import numpy as np

from rankfleet.clients.parts import Scored
from rankfleet.core.errors import RankfleetError

LOG_TAIL = 500  # characters of its standard error, shown when it has died


class CrossEncoderProcess:
    """identity: the model's name, and digests that tell its weights apart where they are files here."""

    def __init__(self, model: str, threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts it, and waits until the model is loaded. Raises RankfleetError."""
        if find_spec("sentence_transformers") is None:
            raise RankfleetError("running a cross-encoder needs Sentence Transformers:  pip install 'rankfleet[train]'")
        self.model, self._clock = model, clock
        count = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | count | {"TRANSFORMERS_VERBOSITY": "error"},
            text=True,
            encoding="utf-8",
        )
        try:
            self.identity = str(self._answer()["identity"])
        except BaseException:
            self.close()
            raise

    def timed(self, query: str, documents: Sequence[str]) -> Scored:
        """Raises RankfleetError where it fails."""
        assert self._process.stdin
        started = self._clock()
        try:
            self._process.stdin.write(json.dumps({"query": query, "documents": [*documents]}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is told below
        scores = np.array(self._answer()["scores"], np.float64)
        if not np.isfinite(scores).all():
            raise RankfleetError(f"{self.model}: the query {query!r} got scores that are not finite")
        return Scored(scores, self._clock() - started)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            said = self._log.read()[-LOG_TAIL:].strip()
            raise RankfleetError(f"{self.model}: its process ended with status {status}: {said}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RankfleetError(f"{self.model}, run by Sentence Transformers: {answer['error']}")
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def serve(model: str, asked: TextIO, answers: TextIO) -> None:
    """The process: answer each line until the input ends."""

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        import torch
        from sentence_transformers import CrossEncoder, __version__

        encoder, raw = CrossEncoder(model), torch.nn.Identity()
        weights = float(sum(parameter.double().abs().sum() for parameter in encoder.parameters()))
        answer({"identity": f"{model}, weights {weights:.12g}, sentence-transformers {__version__}"})
        for line in asked:
            order = json.loads(line)
            pairs = [(order["query"], document) for document in order["documents"]]
            scores = np.asarray(encoder.predict(pairs, activation_fn=raw, show_progress_bar=False))
            if scores.ndim != 1:
                raise ValueError(f"it gives {scores.shape[1]} scores for a pair; a reranker gives one")
            answer({"scores": [float(score) for score in scores]})
    except Exception as error:  # told to whoever asked
        answer({"error": f"{type(error).__name__}: {str(error)[:LOG_TAIL]}"})


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what libraries print goes to standard error
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, pipe)
