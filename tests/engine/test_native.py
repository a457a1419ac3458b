"""The compiled kernels: precision, the processors they run on, and how they are built. test_parity compares scores."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.native import library as native
from rankfleet.engine.native.encoder import NativeEncoder, attention_items
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from tests.engine import checkpoints
from tests.engine.parity import QUERY, documents

CPU = torch.device("cpu")
NEEDS_KERNELS = pytest.mark.skipif(native.library() is None, reason="needs AVX-512 and a C++ compiler")


def needs(dtype: str) -> None:
    if dtype not in native.library().dtypes:
        pytest.skip(f"this processor has no instructions for {dtype}")


@NEEDS_KERNELS
@pytest.mark.parametrize(("dtype", "min_correlation"), [("bfloat16", 0.999), ("int8", 0.99)])
@pytest.mark.parametrize("make", ["17m", "bert"])
def test_lower_precision_stays_close(make: str, dtype: str, min_correlation: float, tmp_path: Path) -> None:
    needs(dtype)
    checkpoint = find_checkpoint("demo/large") if make == "bert" else Checkpoint(checkpoints.ettin(tmp_path, make))
    texts = documents([1, 3, 3, 12, 25, 40, 80, 120, 120, 500])
    exact = Reranker.load(checkpoint, "float32", "cpu").score(QUERY, texts)
    close = Reranker.load(checkpoint, dtype, "cpu").score(QUERY, texts)
    assert not np.array_equal(exact, close), "equal bits: the precision was not used"
    assert np.corrcoef(exact, close)[0, 1] > min_correlation


@NEEDS_KERNELS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_pair_scores_the_same_to_the_last_bit_whatever_its_neighbours(dtype: str, tmp_path: Path) -> None:
    needs(dtype)
    reranker = Reranker.load(Checkpoint(checkpoints.ettin(tmp_path, "17m")), dtype, "cpu")
    texts = documents([2, 7, 30, 31, 100, 100, 180, 900, 1500])
    together = reranker.score(QUERY, texts)
    alone = [float(reranker.score(QUERY, [text])[0]) for text in texts]
    assert together.tolist() == alone


@NEEDS_KERNELS
def test_widths_that_the_kernels_do_not_have_run_in_pytorch(tmp_path: Path) -> None:
    folder = checkpoints.modernbert_classifier(tmp_path, "cls")  # rotary heads of 32
    assert not isinstance(Scorer.load(Checkpoint(folder), "float32", "cpu")._encoder, NativeEncoder)
    if "int8" in native.library().dtypes:
        with pytest.raises(CheckpointError, match="set dtype to auto"):
            Scorer.load(Checkpoint(folder), "int8", "cpu")


def test_long_pairs_are_split_into_attention_items_and_come_first() -> None:
    assert attention_items(np.array([3, 800]), heads=2).tolist() == [
        [1, 0, 0, 384],
        [1, 1, 0, 384],
        [1, 0, 384, 768],
        [1, 1, 384, 768],
        [1, 0, 768, 800],
        [1, 1, 768, 800],
        [0, 0, 0, 3],
        [0, 1, 0, 3],
    ]


def test_instruction_sets_decide_which_precisions_there_are(tmp_path: Path) -> None:
    base = frozenset(native.REQUIRED)
    assert native.supported_dtypes(frozenset({"avx2", "fma"})) == set()
    assert native.supported_dtypes(base) == {"float32"}
    assert native.supported_dtypes(base | {"avx512_bf16", "avx512_vnni"}) == {"float32", "bfloat16", "int8"}
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: x\nflags\t\t: fpu sse2 avx512f\nflags\t\t: other\n")
    assert native.cpu_flags(cpuinfo) == {"fpu", "sse2", "avx512f"}
    assert native.cpu_flags(tmp_path / "absent") == set()


def test_without_a_compiler_the_reason_is_logged_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "cpu_flags", lambda: frozenset(native.REQUIRED))
    monkeypatch.setenv("RANKFLEET_CACHE", str(tmp_path))
    for compiler, path, reason in (
        ("", "", "install g++"),
        (str(tmp_path / "none"), os.defpath, "No such file"),
        ("false", os.defpath, "false failed"),
    ):
        monkeypatch.setenv("CXX", compiler)
        monkeypatch.setenv("PATH", path)
        caplog.clear()
        assert native.library.__wrapped__() is None
        assert reason in caplog.text


def test_a_user_without_a_home_is_told_to_set_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RANKFLEET_CACHE", raising=False)
    monkeypatch.setattr(native, "cpu_flags", lambda: frozenset(native.REQUIRED))
    assert native.library.__wrapped__() is None
    assert "set RANKFLEET_CACHE" in caplog.text
    monkeypatch.setenv("RANKFLEET_CACHE", str(tmp_path))
    assert native.cache_folder() == tmp_path


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_library_that_cannot_be_loaded_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setattr(native, "SOURCES", [source])
    monkeypatch.setenv("CXX", "g++ -O1")  # a compiler with options of its own
    path = native.compiled([], tmp_path / "cache")
    path.write_bytes(b"")  # as a crash may leave it
    assert native.load([], tmp_path / "cache").answer() == 42
    assert path.stat().st_size > 0


def test_kernels_are_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    builds = []

    def compiler(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        builds.append(command)
        Path(command[-1]).write_text("built")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", compiler)
    first = native.compiled(["-mavx512f"], tmp_path)
    assert native.compiled(["-mavx512f"], tmp_path) == first
    assert native.compiled(["-mavx512f", "-mavx512vnni"], tmp_path) != first
    assert len(builds) == 2
    monkeypatch.setattr(native, "openmp", lambda: ["/another/libgomp-1234.so"])
    assert native.compiled(["-mavx512f"], tmp_path) != first, "another PyTorch, another library to link with"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".so"] * 3
