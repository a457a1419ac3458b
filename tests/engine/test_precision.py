"""What `auto` and `fastest` mean for real checkpoints, by fake measurements."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rankfleet.cluster.loading import load_model
from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint.files import PRECISION_COSTS, Checkpoint, find_checkpoint
from rankfleet.engine.native.library import cpu_flags, library
from rankfleet.engine.runtime.precision import choose_precision
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from rankfleet.estimates.precision import Precision
from tests.engine import checkpoints
from tests.unit.fakes import fleet

CPU = torch.device("cpu")
INT8 = (kernels := library()) is not None and "int8" in kernels.dtypes
BFLOAT16 = bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


class Loads:
    """Loads scorers that do nothing, and keeps which precisions were asked for."""

    max_pair = 64

    def __init__(self) -> None:
        self.dtypes: list[str] = []

    def __call__(self, dtype: str) -> "Loads":
        self.dtypes.append(dtype)
        return self

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        return np.zeros(len(pairs), np.float32)


@pytest.fixture(autouse=True)
def _nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library()  # from the cache of kernels
    monkeypatch.setenv("RANKFLEET_CACHE", str(tmp_path / "cache"))


def measured(wanted: str, checkpoint: Checkpoint, compiled: bool = True) -> Sequence[str]:
    """The precisions that are loaded to be measured."""
    loads = Loads()
    choose_precision(wanted, checkpoint, CPU, compiled, loads)
    return loads.dtypes


@pytest.mark.skipif(not (INT8 and BFLOAT16), reason="needs a processor with VNNI and bfloat16")
def test_a_model_is_measured_in_what_it_may_be_computed_in(tmp_path: Path) -> None:
    large, ettin = find_checkpoint("demo/large"), Checkpoint(checkpoints.ettin(tmp_path, (64, 2, 2, 96)))
    assert measured("auto", large) == ["float32", "bfloat16"]
    assert measured("fastest", large) == ["float32", "bfloat16", "int8"]
    assert measured("fastest", ettin) == ["float32", "bfloat16"], "nobody has measured what int8 costs it"
    assert measured("fastest", find_checkpoint("demo/small")) == ["float32", "bfloat16"], "int8 costs it too much"
    costly = Checkpoint(shutil.copytree(find_checkpoint("demo/medium").folder, tmp_path / "costly"))
    (costly.folder / PRECISION_COSTS).write_text('{"bfloat16": 0.003, "int8": 0.001}')
    assert measured("auto", costly) == [], "bfloat16 costs it too much"
    assert measured("fastest", costly) == ["float32", "int8"]
    assert measured("fastest", costly, compiled=False) == [], "int8 is for the kernels"


@pytest.mark.skipif(not BFLOAT16, reason="needs a processor with bfloat16")
def test_what_was_measured_once_is_remembered_for_the_shape() -> None:
    large, small = find_checkpoint("demo/large"), find_checkpoint("demo/small")
    assert measured("auto", large) == ["float32", "bfloat16"]
    assert measured("auto", large) == []
    assert measured("auto", small) == ["float32", "bfloat16"]


def test_a_precision_that_is_named_is_not_measured() -> None:
    loads = Loads()
    for dtype in ("float32", "bfloat16"):
        assert choose_precision(dtype, find_checkpoint("demo/small"), CPU, True, loads).dtype == dtype
    with pytest.raises(CheckpointError, match="AVX512-VNNI"):
        choose_precision("int8", find_checkpoint("demo/small"), CPU, False, loads)
    assert loads.dtypes == []


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, "bfloat16"), (False, "float32")])
@pytest.mark.parametrize("wanted", ["auto", "fastest"])
def test_on_a_gpu_it_is_bfloat16_if_the_gpu_has_it(
    wanted: str, has_bfloat16: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    loads = Loads()
    chosen = choose_precision(wanted, find_checkpoint("demo/small"), torch.device("cuda"), True, loads)
    assert (chosen.dtype, chosen.pairs_per_s, loads.dtypes) == (dtype, {}, [])


@pytest.mark.parametrize("wanted", ["auto", "fastest"])
def test_a_model_scores_in_the_precision_that_was_chosen(wanted: str) -> None:
    large = find_checkpoint("demo/large")
    chosen = Scorer.choose(large, wanted, "cpu")
    dtypes = {"float32", *["bfloat16"] * BFLOAT16, *["int8"] * (INT8 and wanted == "fastest")}
    assert set(chosen.pairs_per_s) == (dtypes if len(dtypes) > 1 else set()), "what is no choice is not measured"
    reranker = Reranker.load(large, wanted, "cpu")
    fastest = max(chosen.pairs_per_s, key=lambda d: chosen.pairs_per_s[d], default="float32")
    assert reranker.scorer.dtype == chosen.dtype == fastest
    assert np.isfinite(reranker.score("wing", ["The wing heats up."])).all()


def test_a_replica_loads_its_model_in_the_precision_that_its_group_shares() -> None:
    asked = []

    def share(group: str, model: str, decide: object) -> Precision:
        asked.append((group, model))
        return Precision("bfloat16", "as the first replica decided")

    name, scorer, weights, precision = load_model(fleet(), "medium", share)
    assert (scorer.dtype, precision.reason) == ("bfloat16", "as the first replica decided")
    assert asked == [("demo", name)]
    exact = load_model(fleet(), "medium", lambda group, model, decide: Precision("float32", "as another decided"))
    assert (exact[0], exact[1].dtype) == (name, "float32")
    assert exact[2] != weights, "no ranking is scored by both"
