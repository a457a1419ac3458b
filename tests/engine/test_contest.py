"""The benchmark of the engine, on a model so small that it takes seconds."""

import sys
from pathlib import Path

import pytest
from benchmarks.contest.engine import Task, run
from benchmarks.contest.shapes import write_ettin

from tests.engine import checkpoints


def test_a_run_reports_speed_differences_and_absent_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    folder = write_ettin(tmp_path, (32, 3, 2, 48), checkpoints.TEXT, 900)
    progress: list[str] = []
    task = Task(
        model=str(folder),
        shape=None,
        pairs=8,
        mean_tokens=80,
        max_tokens=128,
        against=["sentence-transformers", "onnxruntime"],
        dtypes=["float32"],
        device="cpu",
        threads=1,
        rounds=2,
    )
    figures = run(task, progress.append)
    assert figures["rankfleet"]["pairs_per_s"] > 0
    assert figures["rankfleet"]["round_s"]
    assert figures["rankfleet"]["max_abs_difference"] < 1e-4
    assert figures["peers"]["sentence-transformers-fp32"]["batch_size"] in (1, 2, 4, 8, 16, 32)
    assert 1e-4 < figures["peers"]["sentence-transformers-bf16"]["max_abs_difference"] < 0.1
    assert "not installed" in figures["peers"]["onnxruntime"]["absent"]
    assert 0 < figures["bound_fraction"] < 1
    assert figures["ratio"].keys() >= {"sentence-transformers", "sentence-transformers-fp32"}
    assert figures["work"]["mean_tokens"] == pytest.approx(80, abs=2)
    assert figures["measured"]["versions"].keys() >= {"rankfleet", "torch", "sentence-transformers"}
    assert progress[0] == "preparing the model"
    assert "round 1: rankfleet-fp32" in progress
