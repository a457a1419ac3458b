"""Digests with which processes on different machines tell whether they hold the same model."""

import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.digest import digest_of
from rankfleet.engine.checkpoint.files import MODELS, Checkpoint, find_checkpoint
from rankfleet.engine.checkpoint.storage import write_float32

MODULES = [
    {"idx": 0, "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"idx": 1, "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Files of the right names; a digest does not depend on what they mean."""
    folder = tmp_path / "model"
    (folder / "2_Dense").mkdir(parents=True)
    for name, text in {
        "config.json": "{}",
        "tokenizer.json": '{"vocab": {"a": 0}}',
        "vocab.txt": "a\nb\n",
        "chat_template.jinja": "{{ messages }}",
        "modules.json": json.dumps(MODULES),
        "model.safetensors": "weights",
        "2_Dense/config.json": '{"in_features": 3}',
        "2_Dense/model.safetensors": "weights of the head",
    }.items():
        (folder / name).write_text(text)
    return folder


def both(folder: Path) -> tuple[str, str]:
    checkpoint = Checkpoint(folder)
    return checkpoint.description, checkpoint.weights_digest


def test_the_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    # printf abc > b; printf '' > a; sha256sum a b | sha256sum | cut -c -16
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"abc")
    assert digest_of(tmp_path, [tmp_path / "b", tmp_path / "a", tmp_path / "b"]) == "bf6e2103d6cbead2"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "config.json", "2_Dense/config.json"])
def test_a_byte_of_the_description_changes_only_its_digest(name: str, model: Path) -> None:
    description, weights = both(model)
    with (model / name).open("ab") as file:
        file.write(b" ")
    changed = both(model)
    assert changed[0] != description
    assert changed[1] == weights


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
def test_a_byte_of_the_weights_changes_only_their_digest(name: str, model: Path) -> None:
    description, weights = both(model)
    data = bytearray((model / name).read_bytes())
    data[-1] ^= 1
    (model / name).write_bytes(data)
    changed = both(model)
    assert changed[0] == description
    assert changed[1] != weights


def test_renaming_or_swapping_files_changes_the_digests(model: Path) -> None:
    description, weights = both(model)
    (model / "vocab.txt").rename(model / "merges.txt")
    one, other = model / "model.safetensors", model / "2_Dense" / "model.safetensors"
    texts = one.read_text(), other.read_text()
    other.write_text(texts[0])
    one.write_text(texts[1])
    changed = both(model)
    assert changed[0] != description
    assert changed[1] != weights


def test_a_copy_in_another_folder_has_the_same_digests(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "elsewhere" / "another-name")
    assert both(tmp_path / "elsewhere" / "another-name") == both(model)


def test_a_hub_cache_of_links_has_the_same_digests(model: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    for at, path in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        shutil.copyfile(path, blobs / str(at))
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(at), link.parent))
    assert both(snapshot) == both(model)


def test_files_that_do_not_describe_the_model_do_not_count(model: Path) -> None:
    before = both(model)
    for name in (
        "README.md",
        "README.txt",
        "LICENSE.txt",
        "precision_costs.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        ".cache/huggingface/download/config.json",
        ".cache/huggingface/config.json",
        ".cache/config.json",
        "._config.json",
        "onnx/config.json",
        "checkpoint-500/config.json",
        "checkpoint-500/model.safetensors",
        "consolidated.safetensors",
        "training_args.bin",
    ):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("{}")
    assert both(model) == before


def test_the_hub_model_fetched_without_weights_has_the_same_description(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "README.md").write_text("a model")
    (model / "onnx").mkdir()
    (model / "onnx" / "config.json").write_text("{}")
    fetched = tmp_path / "fetched"

    def hub(_: str, *, allow_patterns: list[str], **options: object) -> str:
        files = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, allow_patterns=allow_patterns):
            (fetched / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model / name, fetched / name)
        return str(fetched)

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    checkpoint = find_checkpoint("some/model", weights=False)
    assert len([path for path in fetched.rglob("*") if path.is_file()]) == 7
    assert checkpoint.description == Checkpoint(model).description
    with pytest.raises(CheckpointError, match=r"fetched has no model\.safetensors"):
        _ = checkpoint.weights_digest
    assert both(find_checkpoint("some/model").folder) == both(model)


def test_the_shards_in_the_index_count(model: Path) -> None:
    description, _ = both(model)
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model-00002-of-00002.safetensors").write_text("more weights")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    sharded = both(model)
    assert sharded[0] == description
    (model / "model-00002-of-00002.safetensors").write_text("more weightz")
    assert both(model)[1] != sharded[1]
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors cannot be read"):
        both(model)


def test_another_precision_changes_only_the_digest_of_the_weights(tmp_path: Path) -> None:
    source = MODELS / "demo" / "small"
    write_float32(Checkpoint(source), tmp_path / "plain")
    description, weights = both(source)
    plain = both(tmp_path / "plain")
    assert plain[0] == description
    assert plain[1] != weights
