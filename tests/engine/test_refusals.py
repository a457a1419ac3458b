"""A model that cannot give finite scores is refused when it is loaded, and pairs outside of a model before anything is
computed: by compiled kernels, by PyTorch's operations and by recorded passes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankfleet.core.errors import CheckpointError, InvalidPairs
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.varlen import VarlenAttention, flash_attn_kernel
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.storage import write_int8
from rankfleet.engine.checkpoint.tensors import SCALE_SUFFIX
from rankfleet.engine.checkpoint.weights import Weights, all_finite
from rankfleet.engine.runtime.cudagraph import Bucket
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from tests.engine import checkpoints
from tests.engine.checkpoints import small_bert
from tests.engine.fakes import FakeRecorder
from tests.engine.kernels import fake_flash_attn_varlen_func

CPU = torch.device("cpu")


def small_ettin(folder: Path) -> Path:
    return checkpoints.ettin(folder, (64, 2, 1, 96))


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite a safetensors file."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def put(path: Path, name: str, value: float) -> None:
    """Set the last element of a tensor."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    change(path, edit)


def refused(folder: Path, inside: Path, name: str) -> None:
    message = f"^{re.escape(str(inside))}: tensor '{re.escape(name)}' holds values that are not finite"
    for compiled in (True, False):
        with pytest.raises(CheckpointError, match=message):
            Scorer.load(Checkpoint(folder), "float32", "cpu", compiled=compiled)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("inside", "name"),
    [
        ("", "embeddings.tok_embeddings.weight"),
        ("", "layers.1.attn.Wqkv.weight"),
        ("", "layers.1.mlp_norm.weight"),
        ("2_Dense", "linear.weight"),
        ("3_LayerNorm", "norm.bias"),
        ("4_Dense", "linear.bias"),
    ],
)
def test_weights_that_are_not_finite_are_refused(inside: str, name: str, value: float, tmp_path: Path) -> None:
    folder = small_ettin(tmp_path)
    put(folder / inside / "model.safetensors", name, value)
    refused(folder, folder / inside, name)


@pytest.mark.parametrize("name", ["bert.encoder.layer.0.output.dense.weight", "classifier.weight"])
def test_a_classifiers_tensor_is_named_as_in_the_file(name: str, tmp_path: Path) -> None:
    put(small_bert(tmp_path) / "model.safetensors", name, float("nan"))
    refused(tmp_path, tmp_path, name)


@pytest.mark.parametrize("name", ["model.layers.2.mlp.down_proj.weight", "lm_head.weight"])
def test_weights_of_a_language_model_that_are_not_finite_are_refused(name: str, tmp_path: Path) -> None:
    folder = checkpoints.qwen2_reranker(tmp_path, tied=False)
    put(folder / "model.safetensors", name, float("nan"))
    refused(folder, folder, name)


def test_an_int8_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    write_int8(Checkpoint(small_ettin(tmp_path)), tmp_path / "int8")
    name = "layers.0.mlp.Wi.weight"
    put(tmp_path / "int8" / "model.safetensors", name + SCALE_SUFFIX, float("nan"))
    refused(tmp_path / "int8", tmp_path / "int8", name)


def test_values_are_checked_in_the_precision_that_is_computed_in(tmp_path: Path) -> None:
    half = Weights({"x": torch.tensor([1.0, 7e4]).half()}, tmp_path)  # the largest float16 is 65504
    with pytest.raises(CheckpointError, match="tensor 'x' holds"):
        half.tensor("x")
    double = Weights({"x": torch.tensor([1.0, 1e39], dtype=torch.float64)}, tmp_path)
    assert double.to(torch.float64, CPU).tensor("x").tolist() == [1.0, 1e39]
    with pytest.raises(CheckpointError, match="tensor 'x' holds"):
        double.tensor("x")  # the largest float32 is 3.4e38


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_among_many_is_found_anywhere(dtype: torch.dtype, value: float) -> None:
    for size in (1, 7, 64, 100_000):
        for at in {0, size // 2, size - 1}:
            tensor = torch.ones(size, dtype=dtype)
            assert all_finite(tensor)
            tensor[at] = value
            assert not all_finite(tensor)
    assert all_finite(torch.empty(0, 3, dtype=dtype))


def test_an_unused_tensor_may_hold_anything(tmp_path: Path) -> None:
    folder = small_ettin(tmp_path)
    before = Reranker.load(Checkpoint(folder), "float32", "cpu").score("wing", ["The wing heats up."])
    mask = torch.full((4, 4), float("-inf"))
    change(folder / "model.safetensors", lambda tensors: tensors.update({"layers.0.attn.mask": mask}))
    after = Reranker.load(Checkpoint(folder), "float32", "cpu").score("wing", ["The wing heats up."])
    assert after.tolist() == before.tolist()


@pytest.mark.parametrize("compiled", [True, False])
def test_finite_weights_whose_scores_overflow_are_refused(compiled: bool, tmp_path: Path) -> None:
    folder = small_ettin(tmp_path)
    change(folder / "model.safetensors", lambda tensors: tensors["layers.0.mlp.Wo.weight"].fill_(3e38))
    with pytest.raises(
        CheckpointError, match=r"computes scores that are not finite .* from finite weights, in float32"
    ):
        Scorer.load(Checkpoint(folder), "float32", "cpu", compiled=compiled)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_position_table_shorter_than_the_config_says_is_refused(compiled: bool, tmp_path: Path) -> None:
    folder, name = checkpoints.bert_classifier(tmp_path), "bert.embeddings.position_embeddings.weight"
    change(folder / "model.safetensors", lambda tensors: tensors.update({name: tensors[name][:100].clone()}))
    with pytest.raises(
        CheckpointError,
        match=r"position_embeddings\.weight' has the shape \[100, 384\], and by config\.json \[512, 384\]",
    ):
        Scorer.load(Checkpoint(folder), "float32", "cpu", compiled=compiled)


@pytest.mark.parametrize("token", [1000, -1])
def test_a_logit_score_of_an_unknown_token_is_refused(token: int, tmp_path: Path) -> None:
    folder = checkpoints.qwen2_reranker(tmp_path)
    path = next(path for path in folder.glob("*/config.json") if "true_token_id" in path.read_text())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"false_token_id": token}))
    with pytest.raises(CheckpointError, match=f"false_token_id {token} is outside of the vocabulary of 1000"):
        Scorer.load(Checkpoint(folder), "float32", "cpu")


@pytest.mark.parametrize("path", ["compiled", "plain", "recorded"])
@pytest.mark.parametrize("kind", ["ettin", "bert", "qwen2"])
def test_pairs_outside_of_the_model_are_refused_on_every_path(kind: str, path: str, tmp_path: Path) -> None:
    make = {"ettin": small_ettin, "bert": checkpoints.bert_classifier, "qwen2": checkpoints.qwen2_reranker}[kind]
    rows = {"ettin": 50368, "bert": 1000, "qwen2": 1000}[kind]
    attention = VarlenAttention(flash_attn_kernel(fake_flash_attn_varlen_func)) if path == "recorded" else None
    checkpoint = Checkpoint(make(tmp_path))
    scorer = Scorer.load(checkpoint, "float32", "cpu", compiled=path == "compiled", attention=attention)
    if path == "recorded":
        scorer.record(FakeRecorder(), [Bucket(64, 8)])
    scorer.score(pairs_of([rows - 1, 0, 6], [3]))
    too_long = scorer.max_pair + 1
    for ids, lengths, message in (
        ([5, rows, 6], [3], f"token id {rows} is outside of the vocabulary of {rows}"),
        ([5, -1, 6], [3], "token id -1 is outside"),
        ([5, 6, 7], [3, 0], "a pair of 0 tokens"),
        ([5, 6, 7], [2], "add up to 2 tokens; there are 3 ids"),
        ([5] * too_long, [too_long], f"a pair of {too_long} tokens is longer than the {too_long - 1}"),
    ):
        with pytest.raises(InvalidPairs, match=message):
            scorer.score(pairs_of(ids, lengths))
    assert scorer.score(pairs_of([], [])).shape == (0,)


def pairs_of(ids: list[int], lengths: list[int]) -> TokenizedPairs:
    return TokenizedPairs(np.array(ids, np.int32), np.array(lengths, np.int32), np.zeros(len(lengths), np.int32))
