"""No mix of lengths takes more memory than the budget of a forward pass."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rankfleet.engine.attention.packing import batches
from rankfleet.engine.runtime import pass_budget as budget
from rankfleet.engine.runtime.cgroup import ALL_FILE_PAGES, memory_left
from rankfleet.engine.runtime.pass_budget import bytes_per_token, free_memory, pass_budget
from tests.engine import checkpoints

CPU = torch.device("cpu")
PEAK = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.scorer import Scorer

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


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([5, 1, 3, 9, 2, 6], [[1, 4, 2], [0], [5], [3]]),  # 1 + 2 + 3 tokens are just within 6; 9 exceed it alone
        ([2, 2, 2, 2], [[0, 1, 2], [3]]),
        ([], []),
    ],
)
def test_a_pass_takes_the_shortest_pairs_that_are_left(lengths: list[int], rows: list[list[int]]) -> None:
    assert [batch.tolist() for batch in batches(np.array(lengths, dtype=np.int32), 6)] == rows


@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_a_long_document_among_short_ones_stays_within_the_budgeted_memory(path: str, tmp_path: Path) -> None:
    folder = checkpoints.ettin(tmp_path, "17m")
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder), path], capture_output=True, text=True)
    if "clear_refs" in done.stderr:
        pytest.skip("this kernel does not let a process reset its peak")
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    assert memory["peak"] <= 1.3 * (memory["before"] + memory["budget"])
    assert memory["peak"] - memory["before"] <= 1.3 * memory["budget"]


def test_bytes_per_token_are_the_sum_of_its_activations() -> None:
    # hidden 256, inner 384, 4 bytes: 4 · (3584 + 1536) + 40 · 256
    assert bytes_per_token(256, 384, 4) == 20480 + 10240  # = 30720


def test_a_pass_takes_half_of_the_free_memory_up_to_the_limit_and_at_least_the_longest_pair(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    each = 30_720  # bytes of a token at hidden 256, inner 384 and 4 bytes, as above
    for free_tokens, tokens in ((1_000_000, 4096), (2 * 3000, 3000), (2 * 100, 512)):
        monkeypatch.setattr(budget, "free_memory", lambda _, free=free_tokens * each: free)
        made = pass_budget(256, 384, 512, 4, CPU)
        assert (made.tokens, made.bytes) == (tokens, tokens * each)
    assert "lower the tier's max_tokens below 100" in caplog.text


def test_free_memory_of_a_host_is_what_meminfo_says_or_4_gib(tmp_path: Path) -> None:
    meminfo, none = tmp_path / "meminfo", tmp_path / "absent"
    meminfo.write_text("MemTotal:       1000 kB\nMemAvailable:    750 kB\n")
    assert free_memory(CPU, meminfo, none, none) == 750 * 1024
    assert free_memory(CPU, none, none, none) == 4 * 2**30
    meminfo.write_text("MemAvailable:\n")
    assert free_memory(CPU, meminfo, none, none) == 4 * 2**30


def test_free_memory_in_a_container_is_what_its_limit_leaves_if_that_is_less(tmp_path: Path) -> None:
    meminfo, own, root = tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "root"
    meminfo.write_text("MemAvailable:    750 kB\n")
    own.write_text("0::/\n")
    write(root, {"memory.max": "614400\n", "memory.current": "204800\n", "memory.stat": "inactive_file 0\n"})
    assert free_memory(CPU, meminfo, own, root) == 409_600
    assert free_memory(CPU, tmp_path / "absent", own, root) == 409_600
    write(root, {"memory.max": "6144000\n"})
    assert free_memory(CPU, meminfo, own, root) == 750 * 1024


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


STAT = "anon 600\nfile 300\ninactive_anon 7\ninactive_file 200\nactive_file 100\n"


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": STAT}, 300),  # 1000 − (900 − 200)
        ({"memory.max": "1000\n", "memory.current": "900\n"}, 100),
        ({"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "inactive_file\n"}, 100),
        ({"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "inactive_file x\n"}, 100),
        ({"memory.max": "1000\n", "memory.current": "100\n", "memory.stat": STAT}, 1000),  # read a moment apart
        ({"memory.max": "1000\n", "memory.current": "1300\n", "memory.stat": STAT}, 0),
        ({"memory.max": "1000\n"}, 1000),
        ({"memory.max": "0\n", "memory.current": "0\n"}, 0),
        ({"memory.max": "max\n", "memory.current": "900\n", "memory.stat": STAT}, None),
        ({"memory.max": "-1\n", "memory.current": "900\n"}, None),
        ({"memory.max": "\n"}, None),
        ({"memory.max": "много\n"}, None),
        ({"memory.current": "900\n", "memory.stat": STAT}, None),
        ({}, None),
    ],
)
def test_a_cgroup_leaves_its_limit_less_what_cannot_be_reclaimed(
    files: dict[str, str], left: int | None, tmp_path: Path
) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    write(tmp_path / "root", files)
    assert memory_left(own, tmp_path / "root") == left


def test_the_tightest_cgroup_of_all_ancestors_counts(tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "root"
    own.write_text("0::/pods/pod-1/worker\n")
    write(root, {"memory.max": "max\n", "memory.current": "90000\n"})
    write(root / "pods", {"memory.max": "5000\n", "memory.current": "4000\n", "memory.stat": STAT})  # 1200
    write(root / "pods" / "pod-1", {"memory.max": "3000\n", "memory.current": "2500\n", "memory.stat": STAT})  # 700
    write(root / "pods" / "pod-1" / "worker", {"memory.max": "2000\n", "memory.current": "1000\n"})  # 1000
    write(root / "pods" / "pod-2", {"memory.max": "10\n", "memory.current": "10\n"})  # a neighbour
    assert memory_left(own, root) == 700


def test_the_limit_is_found_when_the_path_is_relative_to_the_hosts_root(tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "root"
    write(root, {"memory.max": "1000\n", "memory.current": "400\n"})
    for path in ("/", "/docker/4f5c", "/../other", "/a:b", ""):
        own.write_text(f"0::{path}\n")
        assert memory_left(own, root) == 600
    for text in ("", "\n", "nonsense\n", "0\n", "7:cpu:/\n"):
        own.write_text(text)
        assert memory_left(own, root) in (None, 600)


def test_cgroup_v1_limits_count_too(tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "root"
    own.write_text("9:name=systemd:/\n8:cpu,cpuacct:/box\n4:memory:/box/inner\n0::/\n")
    no_limit = "9223372036854771712\n"
    write(root / "memory", {"memory.limit_in_bytes": no_limit, "memory.usage_in_bytes": "90000\n"})
    stat = "inactive_file 1\ntotal_inactive_file 250\n"
    box = {"memory.limit_in_bytes": "4000\n", "memory.usage_in_bytes": "3000\n", "memory.stat": stat}
    write(root / "memory" / "box", box)
    write(root / "memory" / "box" / "inner", {"memory.limit_in_bytes": no_limit, "memory.usage_in_bytes": "10\n"})
    assert memory_left(own, root) == 1250


def test_all_file_pages_count_as_free_where_that_is_asked_for(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    write(tmp_path / "root", {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": STAT})
    assert memory_left(own, tmp_path / "root", ALL_FILE_PAGES) == 400  # 1000 − (900 − 200 − 100)
