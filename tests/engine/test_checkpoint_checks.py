"""A checkpoint that would not score as in Sentence Transformers is refused before its weights are read, in one sentence
that names folder and reason."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel
from typer.testing import CliRunner

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from tests.engine.checkpoints import tiny_bert as bert
from tests.engine.checkpoints import tiny_modernbert as modernbert
from tests.engine.checkpoints import tiny_roberta as roberta
from tests.engine.saved import (
    PROMPT,
    Build,
    chain,
    edited,
    embedding_model,
    modules,
    saved,
    sharded,
    typed,
    with_tensors,
    with_tokenizer,
)

CHAIN_EDIT = partial(edited, chain)
REFUSED: dict[str, tuple[Build, str]] = {
    "two labels": (partial(bert, num_labels=2), "the classifier has 2 labels; a reranker has one"),
    "two labels by default": (edited(bert, "config.json", id2label=..., label2id=...), "has 2 labels"),
    "no classifier": (partial(bert, model=BertModel), "there is no classifier; a bert encoder alone gives no score"),
    "an embedding model": (
        partial(embedding_model, build=partial(bert, model=BertModel)),
        "it was not saved by a CrossEncoder, and has no classifier",
    ),
    "activation_function: null": (
        CHAIN_EDIT("2_Dense/config.json", activation_function=None),
        "2_Dense: its activation_function is null, which Sentence Transformers does not load",
    ),
    "a foreign activation": (
        CHAIN_EDIT("2_Dense/config.json", activation_function="transformers.activations.GELUActivation"),
        "2_Dense: its activation_function 'transformers.activations.GELUActivation' is not supported",
    ),
    "an activation with weights": (
        CHAIN_EDIT("2_Dense/config.json", activation_function="torch.nn.modules.activation.PReLU"),
        "PReLU' is not supported",
    ),
    "hidden_act": (edited(bert, "config.json", hidden_act="xielu"), "activation 'xielu' is not one of gelu"),
    "a residual": (CHAIN_EDIT("2_Dense/config.json", use_residual=True), "2_Dense: a Dense module with use_residual"),
    "a bias too many": (CHAIN_EDIT("4_Dense/config.json", bias=False), "4_Dense: tensor 'linear.bias' does not belong"),
    "a bias too few": (CHAIN_EDIT("2_Dense/config.json", bias=True), "2_Dense has no tensor 'linear.bias'"),
    "pooling by the maximum": (CHAIN_EDIT("1_Pooling/config.json", pooling_mode="max"), "1_Pooling: pooling 'max'"),
    "pooling of two kinds": (
        CHAIN_EDIT("1_Pooling/config.json", pooling_mode=["cls", "mean"]),
        "1_Pooling: pooling .*cls.*mean.* is not supported",
    ),
    "pooling of the last token": (CHAIN_EDIT("1_Pooling/config.json", pooling_mode="last"), "pooling 'last'"),
    "no pooling": (modules(chain, lambda listed: listed.pop(1)), "the module behind the encoder is Dense"),
    "no scores": (
        CHAIN_EDIT("4_Dense/config.json", module_output_name="sentence_embedding"),
        "the head ends in 1 outputs named 'sentence_embedding'; a reranker has one, named 'scores'",
    ),
    "modules behind the scores": (
        modules(chain, lambda listed: listed[3].update(listed[3] | {"idx": 9})),
        "3_LayerNorm: this module comes behind the one whose output is `scores`",
    ),
    "another module": (
        modules(chain, lambda listed: listed[3].update(type="sentence_transformers.models.WordWeights")),
        "a head module of kind 'WordWeights' is not supported",
    ),
    "a module of other code": (
        modules(chain, lambda listed: listed[2].update(type="my_code.Dense")),
        "names a module of other code, which is not run: my_code.Dense",
    ),
    "an encoder elsewhere": (
        modules(chain, lambda listed: listed[0].update(path="0_Transformer")),
        "its encoder lies in 0_Transformer, and has to lie at the root",
    ),
    "a prompt that is not there": (
        edited(saved, "config_sentence_transformers.json", default_prompt_name="rank"),
        r"its default prompt 'rank' is not among its prompts \(none\)",
    ),
    "a prompt left out of pooling": (
        edited(partial(chain, **PROMPT), "1_Pooling/config.json", include_prompt=False),
        "its default prompt is left out of pooling",
    ),
    "segments in another order": (with_tokenizer(bert, typed(1, 1, 1, 0, 0)), r"segments of a pair \[1, 1, 1, 0, 0\]"),
    "segments that begin early": (with_tokenizer(bert, typed(0, 0, 1, 1, 1)), "has to begin with the document"),
    "segments that the model does not have": (
        partial(bert, type_vocab_size=1),
        "its tokenizer gives segment id 1; the model has 1 segments",
    ),
    "ids that the model does not have": (
        partial(bert, vocab_size=90),
        r"its tokenizer has ids up to \d+, and the model 90 embeddings",
    ),
    "texts cut on the left": (
        edited(bert, "tokenizer_config.json", truncation_side="left"),
        "its tokenizer truncates texts on the left",
    ),
    "padding on the left": (edited(bert, "tokenizer_config.json", padding_side="left"), "pads on the left"),
    "a chat template": (
        edited(bert, "tokenizer_config.json", chat_template="{{ messages }}"),
        "its tokenizer has a chat template",
    ),
    "no room": (edited(bert, "tokenizer_config.json", model_max_length=3), "the prompt alone has 3 tokens"),
    "a setting": (edited(saved, "sentence_bert_config.json", config_args={"num_labels": 1}), "the setting config_args"),
    "truncation of the document": (
        edited(saved, "sentence_bert_config.json", processing_kwargs={"text": {"truncation": "only_second"}}),
        "the setting processing_kwargs.text.truncation: 'only_second'",
    ),
    "an adapter": (edited(bert, "adapter_config.json", peft_type="LORA"), "it holds an adapter"),
    "quantized": (
        edited(bert, "config.json", quantization_config={"quant_method": "fp8"}),
        r"its weights are quantized \(fp8\)",
    ),
    "stored as int8": (
        with_tensors(bert, lambda tensors: tensors | {"classifier.weight": torch.ones(1, 64, dtype=torch.int8)}),
        "tensor 'classifier.weight' is stored as int8",
    ),
    "other widths": (edited(bert, "config.json", hidden_size=128), r"has the shape .* and by config.json"),
    "another vocabulary": (
        edited(bert, "config.json", vocab_size=2000),
        r"\[1000, 64\], and by config.json \[2000, 64\]",
    ),
    "a decoder": (edited(bert, "config.json", is_decoder=True), "config.json says is_decoder"),
    "roberta without a padding token": (
        edited(roberta, "config.json", pad_token_id=None),
        "config.json has no pad_token_id, from which RoBERTa counts positions",
    ),
    "a config of wrong values": (edited(bert, "config.json", num_hidden_layers="two"), "config.json cannot be read"),
    "a config of no object": (edited(bert, "config.json", model_type=3), "config.json cannot be read"),
    "scaled positions": (
        edited(
            modernbert,
            "config.json",
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        "rope type 'linear' of full_attention layers is not supported",
    ),
}


def sentence(ask: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as fault:
        ask()
    return str(fault.value)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_the_weights_are_read(name: str, tmp_path: Path) -> None:
    build, reason = REFUSED[name]
    folder = build(tmp_path)
    said = sentence(lambda: check_checkpoint(Checkpoint(folder)))
    assert re.search(reason, said), said
    assert str(folder) in said
    assert "\n" not in said
    for load in (Scorer.load, Reranker.load):
        assert sentence(lambda load=load: load(Checkpoint(folder), "float32", device="cpu")) == said  # type: ignore[misc]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    path = bert(tmp_path) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = sentence(lambda: check_checkpoint(Checkpoint(tmp_path)))
    assert str(tmp_path) in said
    assert "\n" not in said
    assert sentence(lambda: Scorer.load(Checkpoint(tmp_path), "float32", "cpu")) == said


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    assert "is not a readable safetensors file" in sentence(lambda: check_checkpoint(Checkpoint(tmp_path)))


def test_widths_that_the_kernels_do_not_have_are_refused_for_int8_only(tmp_path: Path) -> None:
    folder = bert(tmp_path, hidden_size=48)
    check_checkpoint(Checkpoint(folder), "float32")
    assert "widths that int8 is not made for" in sentence(lambda: check_checkpoint(Checkpoint(folder), "int8"))


def test_a_tier_without_room_for_texts_is_refused(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    check_checkpoint(Checkpoint(folder), max_tokens=4)
    said = sentence(lambda: check_checkpoint(Checkpoint(folder), max_tokens=3))
    assert said == f"{folder}: the prompt alone has 3 tokens; allow pairs more than 3"


def test_no_weight_is_read_by_the_check(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        tensor.fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_checkpoint(Checkpoint(folder))
    assert "not finite" in sentence(lambda: Scorer.load(Checkpoint(folder), "float32", "cpu"))


@pytest.mark.parametrize("verb", ["rank", "profile"])
@pytest.mark.parametrize("name", ["two labels", "activation_function: null", "no room"])
def test_the_command_line_names_tier_folder_and_reason(name: str, verb: str, tmp_path: Path) -> None:
    folder = REFUSED[name][0](tmp_path)
    fleet = tmp_path / "fleet.yaml"
    tiers = {"only": {"model": str(folder), "quality": 0.5}}
    fleet.write_text(json.dumps({"tiers": tiers, "groups": {"all": {"tiers": ["only"], "dtype": "float32"}}}))
    from rankfleet.cli import app, profile, rank  # noqa: F401  (each registers its verb)

    texts = ["a query", "a document"] if verb == "rank" else []
    fault = CliRunner().invoke(app, [verb, *texts, "--config", str(fleet)]).exception
    assert isinstance(fault, CheckpointError)
    assert str(fault) == f"tier only: {sentence(lambda: check_checkpoint(Checkpoint(folder)))}"
