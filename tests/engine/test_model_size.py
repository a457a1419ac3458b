"""The size of a model by its files, against figures computed by hand from its shape."""

from pathlib import Path

import pytest

from rankfleet.cluster.memory_fit import check_replica, free_gpu_memory, replica_need
from rankfleet.core.errors import CheckpointError
from rankfleet.core.fleet_file import parse_config
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.native.library import library
from rankfleet.engine.runtime.model_size import model_size
from tests.engine import checkpoints

# Hidden 64, 2 layers, MLP inner 96: embeddings of 50368 rows and their norm; in each layer q, k, v and the output, the
# MLP and its gate, and two norms, of which the first layer has one; the last norm. Head: a matrix, a norm, a row.
EMBEDDINGS = 50_368 * 64
MATRICES = 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) - 64 + 64 + (64 * 64 + 2 * 64 + 64 + 1)


@pytest.fixture(scope="module")
def ettin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.ettin(tmp_path_factory.mktemp("ettin"), (64, 2, 1, 96))


@pytest.mark.parametrize(("dtype", "element"), [("bfloat16", 2), ("auto", 2), ("float32", 4)])
def test_on_a_gpu_a_pass_takes_what_pytorchs_operations_take(ettin: Path, dtype: str, element: int) -> None:
    size = model_size(Checkpoint(ettin), dtype, 512, on_gpu=True)
    assert size.parameters == EMBEDDINGS + MATRICES
    assert size.pass_bytes == 512 * (element * (14 * 64 + 4 * 96) + 4 * 10 * 64)
    assert size.load_bytes == 0


def test_the_compiled_kernels_take_less_for_a_pass_and_a_copy_of_the_matrices_to_load(ettin: Path) -> None:
    if library() is None:
        pytest.skip("needs a CPU with AVX-512 and a C++ compiler")
    size = model_size(Checkpoint(ettin), "float32", None, on_gpu=False)
    assert size.pass_bytes == 8192 * 2 * 5 * 64  # the longest pair that the checkpoint takes
    assert size.load_bytes == 4 * MATRICES


def test_a_causal_models_head_is_not_counted(tmp_path: Path) -> None:
    tied, untied = (
        model_size(Checkpoint(checkpoints.qwen2_reranker(tmp_path / str(tied), tied=tied)), "auto", 64, on_gpu=True)
        for tied in (True, False)
    )
    assert tied.parameters == untied.parameters


def test_a_replica_refuses_tiers_for_which_there_is_no_memory(ettin: Path) -> None:
    tiers = {name: {"model": str(ettin), "quality": 0.5, "max_tokens": 64} for name in ("a", "b")}
    fleet = parse_config({"tiers": tiers, "groups": {"g": {"tiers": ["a", "b"], "dtype": "float32"}}})
    need = replica_need(fleet, "g", ["a", "b"])
    assert need.weights == dict.fromkeys(("a", "b"), 4 * (EMBEDDINGS + MATRICES))
    check_replica(fleet, "g", ["a", "b"], lambda device: need.total)
    with pytest.raises(
        CheckpointError, match=r"^group g does not fit into memory: a replica needs 0\.03 GB: weights at"
    ):
        check_replica(fleet, "g", ["a", "b"], lambda device: need.total - 1)


def test_free_memory_of_gpus_is_what_the_driver_says() -> None:
    assert free_gpu_memory(["printf", "81079\n40000\n"]) == [81_079 * 2**20, 40_000 * 2**20]
    assert free_gpu_memory(["printf", "[N/A]\n"]) == []
    assert free_gpu_memory(["false"]) == []
    assert free_gpu_memory(["/nothing/here"]) == []
