"""The compiled kernels: precision, and what is installed. test_parity compares scores."""

import shutil
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
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_an_earlier_batch_left_behind_counts_for_nothing(dtype: str) -> None:
    needs(dtype)
    reranker = Reranker.load(find_checkpoint("demo/large"), dtype, "cpu")
    texts = documents([2, 7, 30, 100])
    first = reranker.score(QUERY, texts)
    with torch.inference_mode():
        for buffer in reranker.scorer._encoder._workspace_buffers:
            buffer.fill_(float("nan"))
    assert reranker.score(QUERY, texts).tolist() == first.tolist()


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


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(not native.best_variants(native.cpu_flags()), reason="needs AVX-512")
def test_the_installation_has_the_kernels_of_these_sources() -> None:
    assert native.library() is not None, "run `make install`"
    assert native.library().dtypes == native.best_variants(native.cpu_flags()).keys()


@NEEDS_KERNELS
def test_kernels_and_pytorch_share_one_openmp_runtime() -> None:
    native.library()
    runtimes = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "gomp" in line}
    assert len([path for path in runtimes if Path(path).parent.name in ("lib", "torch.libs")]) == 1
    assert not [path for path in runtimes if path.startswith("/usr/lib")], runtimes
