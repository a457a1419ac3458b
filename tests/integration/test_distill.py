"""`rankfleet distill` as a command: killed, resumed, and closer to the teacher than at the start."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from tests.integration.fleet import PASSAGES
from tests.serving import RANKFLEET

TEACHER, STUDENT, START_S = "demo/medium", "demo/small", 180
# Training and evaluation use the same pairs, which is enough to see the student move towards the teacher.
PAIRS = [
    {"query": f"{start} {topic}?", "document": passage}
    for start in ("what is", "how does one explain", "who knows about", "why is there")
    for topic in ("a vaccine", "the immune system", "fungi", "the stock market", "heavy rain")
    for passage in PASSAGES
]


def distance(scores: np.ndarray, teacher: Reranker) -> float:
    """Mean squared difference from the teacher's scores over PAIRS."""
    return float(np.mean(np.square(scores - scores_of(teacher))))


def scores_of(reranker: Reranker) -> np.ndarray:
    return np.concatenate([reranker.score(pair["query"], [pair["document"]]) for pair in PAIRS])


def test_a_killed_run_is_resumed_and_ends_closer_to_the_teacher(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    data, out = tmp_path / "pairs.jsonl", tmp_path / "student"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    command = [RANKFLEET, "distill", "--teacher", TEACHER, "--student", STUDENT, "--data", data, "--out", out]
    command += ["--batch", "5", "--epochs", "4", "--learning-rate", "5e-4", "--layers", "1", "--int8"]

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = out / "work" / "checkpoints"
    deadline = time.monotonic() + START_S
    while not any(checkpoints.glob("checkpoint-*/trainer_state.json")):
        assert first.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline, f"no checkpoint was written within {START_S} s"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (out / "model.safetensors").exists()
    scores, log = out / "work" / "scores.jsonl", tmp_path / "log.txt"
    scored = scores.stat().st_mtime_ns
    with log.open("w") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as second:
        while second.poll() is None:
            assert not scores.exists() or scores.stat().st_mtime_ns == scored, "pairs were scored twice"
            time.sleep(0.2)
    assert second.returncode == 0, log.read_text()
    assert not (out / "work").exists()

    from rankfleet.distill.student import student_of_reranker

    # One of two layers, as the run starts with: far from the teacher.
    start = student_of_reranker(find_checkpoint(STUDENT), layers=1)
    before = start.predict([(p["query"], p["document"]) for p in PAIRS], activation_fn=torch.nn.Identity())
    teacher, after = (Reranker.load(c, device="cpu") for c in (find_checkpoint(TEACHER), Checkpoint(out)))
    assert distance(scores_of(after), teacher) < 0.75 * distance(before, teacher)
