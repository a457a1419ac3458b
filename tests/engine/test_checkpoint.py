import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.checkpoint.storage import quantize_rows, write_float32, write_int8
from rankfleet.engine.checkpoint.tensors import read_tensors
from rankfleet.engine.runtime.scorer import Reranker
from tests.engine.checkpoints import small_bert


def fails(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Reranker.load(Checkpoint(folder), device="cpu")


class Trap:
    """Whose unpickling leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def change(path: Path, keys: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    fails(tmp_path, r"no config\.json")


def test_a_config_without_weights_is_refused(tmp_path: Path) -> None:
    (small_bert(tmp_path) / "model.safetensors").unlink()
    fails(tmp_path, "only safetensors checkpoints are loaded")


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    path = small_bert(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    fails(tmp_path, "not a readable safetensors file")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = small_bert(tmp_path) / "model.safetensors"
    tensors = read_tensors(tmp_path)
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    save_file(tensors, path)
    fails(tmp_path, r"no tensor 'bert\.encoder\.layer\.0\.output\.dense\.weight'")


def test_a_classifier_with_several_labels_is_refused(tmp_path: Path) -> None:
    fails(small_bert(tmp_path, labels=3), "3 labels; a reranker has one")


def test_an_unknown_architecture_is_refused_with_those_that_are_supported(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    fails(tmp_path, "'gpt2' model; supported are bert")


def test_a_pickled_checkpoint_is_refused_and_not_opened(tmp_path: Path) -> None:
    folder, trace = small_bert(tmp_path / "model"), tmp_path / "opened"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trace)))
    fails(folder, "only safetensors checkpoints are loaded")
    assert not trace.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert trace.exists(), "the file would have told"


@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_checkpoint_is_not_run(known: bool, tmp_path: Path) -> None:
    folder, trace = small_bert(tmp_path / "model"), tmp_path / "run"
    expected = Reranker.load(Checkpoint(folder), device="cpu").score("wing", ["The wing heats up."])
    (folder / "mine.py").write_text(f"open({str(trace)!r}, 'w')")
    classes = {name: f"mine.{name}" for name in ("AutoConfig", "AutoModelForSequenceClassification")}
    change(folder / "config.json", {"auto_map": classes} | ({} if known else {"model_type": "mine"}))
    change(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.Slow", "mine.Fast"]}})
    if known:  # by Transformers, whose own classes read it
        scores = Reranker.load(Checkpoint(folder), device="cpu").score("wing", ["The wing heats up."])
        assert scores.tolist() == expected.tolist()
    else:
        fails(folder, "cannot be read")
    assert not trace.exists()


def test_a_shard_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside of its folder"):
        read_tensors(tmp_path)


def test_shards_are_joined(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {name: len(t) for name, t in read_tensors(tmp_path).items()} == {"a": 2, "b": 3}


@pytest.mark.parametrize("model", ["./nothing-here", "/nothing/here", "~/nothing", "word", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="no model folder at"):
        find_checkpoint(model)


def test_int8_moves_no_weight_by_more_than_half_a_step() -> None:
    matrix = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    stored, scale = quantize_rows(matrix)
    assert stored.dtype == torch.int8
    # bfloat16 rounds a scale down by at most 1 in 512, so that the largest weight is at most 127 / 512 of a step off.
    assert ((stored * scale.float() - matrix).abs() <= scale.float() / 2 + 1e-7).all()
    assert (quantize_rows(torch.zeros(2, 3))[0] == 0).all()


def test_int8_storage_and_its_float32_export_give_the_same_scores(tmp_path: Path) -> None:
    source = Checkpoint(small_bert(tmp_path / "source"))
    write_int8(source, tmp_path / "int8")
    write_float32(Checkpoint(tmp_path / "int8"), tmp_path / "plain")
    texts = ["The wing heats up.", "Patients were given the drug twice."]
    stored, plain, first = (
        Reranker.load(Checkpoint(tmp_path / name), device="cpu").score("wing", texts)
        for name in ("int8", "plain", "source")
    )
    assert stored.tolist() == plain.tolist()
    assert stored == pytest.approx(first, abs=0.02)
    with pytest.raises(CheckpointError, match="not empty"):
        write_int8(source, tmp_path / "plain")


def test_a_scale_without_its_matrix_is_refused(tmp_path: Path) -> None:
    save_file({"a.int8_scale": torch.ones(2, 1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'a\.int8_scale', a scale, without the tensor 'a'"):
        read_tensors(tmp_path)


def test_an_index_without_a_weight_map_is_refused(tmp_path: Path) -> None:
    for text in ("{}", "[]", '{"weight_map": ["a"]}'):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match="has no weight_map"):
            read_tensors(tmp_path)


@pytest.mark.parametrize("path", ["../elsewhere", "/elsewhere", "a/../../b"])
def test_a_module_outside_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "path": path, "type": "x.Dense"}]))
    with pytest.raises(CheckpointError, match="outside of its folder"):
        _ = Checkpoint(tmp_path).modules


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "[1]", '[{"idx": 0, "path": ""}]', '[{"idx": 0, "path": 5, "type": "x"}]', "3"]
)
def test_a_modules_file_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a list of modules"):
        _ = Checkpoint(tmp_path).modules
