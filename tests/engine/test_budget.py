"""No mix of lengths takes more memory than was budgeted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankfleet.engine import budget
from rankfleet.engine.budget import bytes_per_token, free_memory, pass_budget
from tests.engine import checkpoints

CPU = torch.device("cpu")
PEAK = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint import Checkpoint
from rankfleet.engine.scorer import Scorer

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

def pairs(lengths):
    ids = np.random.default_rng(0).integers(5, 800, sum(lengths)).astype(np.int32)
    return TokenizedPairs(ids, np.array(lengths, np.int32), np.full(len(lengths), 4, np.int32))

torch.set_num_threads(1)
scorer = Scorer.load(Checkpoint(Path(sys.argv[1])), "float32", "cpu", compiled=sys.argv[2] == "compiled")
scorer.score(pairs([64] * 8))
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
before = resident("VmRSS")
scores = scorer.score(pairs([8192, *[30] * 1000]))
assert np.isfinite(scores).all()
print(json.dumps({"before": before, "peak": resident("VmHWM"), "budget": scorer.budget.bytes}))
"""


@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_a_long_document_among_a_thousand_short_ones(path: str, tmp_path: Path) -> None:
    folder = checkpoints.ettin(tmp_path, "17m")
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder), path], capture_output=True, text=True)
    if "clear_refs" in done.stderr:
        pytest.skip("this kernel does not let a process reset its peak")
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    assert memory["peak"] <= 1.3 * (memory["before"] + memory["budget"])
    assert memory["peak"] - memory["before"] <= 1.3 * memory["budget"]


def test_bytes_of_a_token_by_hand() -> None:
    # hidden 256, inner 384, 4 bytes: 4 · (3584 + 1536) + 40 · 256
    assert bytes_per_token(256, 384, 4) == 20480 + 10240


def test_a_pass_is_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    each = bytes_per_token(256, 384, 4)
    for free_tokens, tokens in ((1_000_000, 4096), (2 * 3000, 3000), (2 * 100, 512)):
        monkeypatch.setattr(budget, "free_memory", lambda _, free=free_tokens * each: free)
        made = pass_budget(256, 384, 512, 4, CPU)
        assert (made.tokens, made.bytes) == (tokens, tokens * each)
    assert "lower the tier's max_tokens below 100" in caplog.text


def test_free_memory_as_linux_tells(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemAvailable:    750 kB\n")
    assert free_memory(CPU, meminfo) == 750 * 1024
    assert free_memory(CPU, tmp_path / "absent") == 4 * 2**30
