"""Cross-encoders as people have saved them: each scores as `sentence_transformers.CrossEncoder` scores it, in compiled
code and in PyTorch's operations, or is refused in one sentence before its weights are read."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from itertools import chain as chained
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.contest.shapes import fill
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from typer.testing import CliRunner

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.native.encoder import NativeEncoder
from rankfleet.engine.native.library import library
from rankfleet.engine.runtime.loadable import check_checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.measure import QUICK, measure
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from tests.engine import checkpoints
from tests.engine.parity import QUERY, documents, reference_scores

Build = Callable[[Path], Path]
LONGEST = 64  # tokens of a pair, so that texts are cut
LENGTHS = [1, 2, 5, 17, 30, 30, 45, 200]  # words
WORDS = ("how", "does", "the", "wing", "heat", "boundary", "layer", "of", "an", "aircraft")


def spread(model: torch.nn.Module, seed: int = 3) -> None:
    """Weights so far apart that a mistaken id moves scores by far more than the tolerance."""
    fill(model, seed, spread=0.15)


def bert(
    folder: Path, *, model: type = BertForSequenceClassification, max_length: int = LONGEST, **options: Any
) -> Path:
    """A MiniLM-like classifier."""
    small = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"intermediate_size": 128, "max_position_embeddings": 128, "num_labels": 1}
    built = model(BertConfig(**{**small, **sizes, **options}))
    spread(built)
    built.save_pretrained(folder)
    checkpoints.word_piece(folder, max_length)
    return folder


def roberta(folder: Path, *, xlm: bool = False, max_length: int = LONGEST, **options: Any) -> Path:
    config, model = (
        (XLMRobertaConfig, XLMRobertaForSequenceClassification)
        if xlm
        else (RobertaConfig, RobertaForSequenceClassification)
    )
    small = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"intermediate_size": 128, "max_position_embeddings": 130, "type_vocab_size": 1, "num_labels": 1}
    built = model(config(**{**small, **sizes, **options}))
    spread(built)
    built.save_pretrained(folder)
    checkpoints.roberta_bpe(folder, max_length)
    return folder


def modern_config(**options: Any) -> ModernBertConfig:
    small = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1}
    sizes = {"intermediate_size": 96, "local_attention": 16, "num_labels": 1}
    special = {"pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    return ModernBertConfig(**{**small, **sizes, **special, **options})


def modernbert(folder: Path, **options: Any) -> Path:
    built = ModernBertForSequenceClassification(modern_config(**options))
    spread(built)
    built.save_pretrained(folder)
    checkpoints.byte_bpe(folder, LONGEST)
    return folder


def saved(folder: Path, build: Build = bert, **options: Any) -> Path:
    """As `CrossEncoder.save_pretrained` of Sentence Transformers 6 writes it."""
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(build(folder / "plain")), device="cpu", **options).save_pretrained(str(folder / "saved"))
    return folder / "saved"


def chain(
    folder: Path,
    *,
    encoder: str = "modernbert",
    pooling: str = "cls",
    activation: torch.nn.Module | None = None,
    last: torch.nn.Module | None = None,
    between: Callable[[], list[Any]] = list,
    **options: Any,
) -> Path:
    """Encoder, Pooling, Dense, LayerNorm, Dense, as the Ettin rerankers are saved."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    if encoder == "modernbert":
        from transformers import ModernBertModel

        model = ModernBertModel(modern_config())
        spread(model)
        model.save_pretrained(folder / "encoder")
        checkpoints.byte_bpe(folder / "encoder", LONGEST)
    else:
        bert(folder / "encoder", model=BertModel)
    head = [
        Pooling(64, pooling_mode=pooling),
        Dense(64, 64, bias=False, activation_function=activation or torch.nn.GELU()),
        LayerNorm(64),
        *between(),
        Dense(64, 1, activation_function=last or torch.nn.Identity(), module_output_name="scores"),
    ]
    for at, module in enumerate(head):
        spread(module, at)
    modules = [Transformer(str(folder / "encoder")), *head]
    CrossEncoder(modules=modules, num_labels=1, device="cpu", **options).save_pretrained(str(folder / "saved"))
    return folder / "saved"


def edit_json(path: Path, **changes: Any) -> None:
    """A value of `...` takes the key away."""
    there = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in {**there, **changes}.items() if v is not ...}))


def edited(build: Build, name: str, **changes: Any) -> Build:
    def built(folder: Path) -> Path:
        edit_json((made := build(folder)) / name, **changes)
        return made

    return built


def with_tensors(build: Build, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Build:
    def built(folder: Path) -> Path:
        path = (made := build(folder)) / "model.safetensors"
        save_file({n: t.contiguous() for n, t in change(load_file(path)).items()}, path, metadata={"format": "pt"})
        return made

    return built


def with_json(build: Build, name: str, change: Callable[[Any], None]) -> Build:
    """With a change of what one of its JSON files holds."""

    def built(folder: Path) -> Path:
        path = (made := build(folder)) / name
        held = json.loads(path.read_text())
        change(held)
        path.write_text(json.dumps(held))
        return made

    return built


def with_tokenizer(build: Build, change: Callable[[dict[str, Any]], None]) -> Build:
    return with_json(build, "tokenizer.json", change)


def typed(*types: int) -> Callable[[dict[str, Any]], None]:
    """The segment ids of [CLS], query, [SEP], document, [SEP]."""

    def change(settings: dict[str, Any]) -> None:
        for piece, number in zip(settings["post_processor"]["pair"], types, strict=True):
            next(iter(piece.values()))["type_id"] = number

    return change


def old_norms(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As TensorFlow's BERT names them."""
    pairs = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for new, old in pairs:
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


def buffers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of releases of Transformers that saved them."""
    return tensors | {
        "bert.embeddings.position_ids": torch.arange(128)[None],
        "bert.embeddings.token_type_ids": torch.zeros(1, 128, dtype=torch.long),
        "dropout.mask": torch.full((3,), float("inf")),
    }


def stored_as(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def sharded(folder: Path) -> Path:
    model = BertForSequenceClassification.from_pretrained(bert(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len([*folder.glob("model-*.safetensors")]) > 1
    return folder


def cut_and_padded(settings: dict[str, Any]) -> None:
    """As many models of sentences have it in tokenizer.json."""
    settings["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    settings["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }


def case_kept(settings: dict[str, Any]) -> None:
    settings["normalizer"]["lowercase"] = False


def unigram(folder: Path) -> Path:
    """XLM-R with its own kind of tokenizer, which joins what stands before a text with it."""
    roberta(folder, xlm=True)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(checkpoints.TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    ).save_pretrained(folder)
    return folder


def few_words(folder: Path) -> Path:
    """A vocabulary of 15."""
    bert(folder, vocab_size=15)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LONGEST, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def without_modules(folder: Path) -> Path:
    made = saved(folder, prompts={"rank": "Rank these: "}, default_prompt_name="rank")
    (made / "modules.json").unlink()
    return made


def embedding_model(folder: Path, build: Build) -> Path:
    """Saved by a SentenceTransformer."""
    made = build(folder)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (made / "modules.json").write_text(json.dumps(modules))
    (made / "1_Pooling").mkdir()
    edit_json(made / "1_Pooling" / "config.json", word_embedding_dimension=64, pooling_mode_mean_tokens=True)
    edit_json(made / "config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q")
    return made


def modules(build: Build, change: Callable[[list[dict[str, Any]]], None]) -> Build:
    return with_json(build, "modules.json", change)


def normalize() -> list[Any]:
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Dropout

    return [Normalize(), Dropout(0.3)]


PROMPT: dict[str, Any] = {"prompts": {"rank": "Rank these: ", "other": "x"}, "default_prompt_name": "rank"}
NO_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}
EQUAL: dict[str, Build] = {
    "bert": bert,
    "roberta": roberta,
    "xlm-roberta": partial(roberta, xlm=True),
    "xlm-roberta, unigram": unigram,
    "modernbert": modernbert,
    "modernbert, mean": partial(modernbert, classifier_pooling="mean"),
    "chain": chain,
    "chain of bert": partial(chain, encoder="bert"),
    # prompts
    "prompt": partial(saved, **PROMPT),
    "prompt of a chain": partial(chain, **PROMPT),
    "prompt, pooled by the mean": partial(chain, pooling="mean", **PROMPT),
    "prompt of unigrams": partial(saved, build=unigram, prompts={"a": "query:"}, default_prompt_name="a"),
    "prompt of bytes": partial(saved, build=modernbert, prompts={"a": "Query: "}, default_prompt_name="a"),
    "prompts without a default": partial(saved, prompts={"a": "query: "}),
    "an empty prompt": partial(saved, prompts={"a": ""}, default_prompt_name="a"),
    "a prompt without modules": without_modules,
    "a prompt of an embedding model": partial(embedding_model, build=bert),
    # segments
    "segments not asked for": edited(bert, "tokenizer_config.json", **NO_TYPES),
    "segments all 0": with_tokenizer(bert, typed(0, 0, 0, 0, 0)),
    "one segment": with_tokenizer(partial(bert, type_vocab_size=1), typed(0, 0, 0, 0, 0)),
    "three segments": partial(bert, type_vocab_size=3),
    "roberta with segments": edited(
        with_tokenizer(partial(roberta, type_vocab_size=2), typed(0, 0, 0, 0, 1, 1)),
        "tokenizer_config.json",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ),
    "roberta with segments that it does not ask for": partial(roberta, type_vocab_size=2),
    "segments of a chain": with_tokenizer(partial(chain, encoder="bert"), typed(0, 0, 0, 0, 0)),
    # tensors
    "LayerNorm.gamma": with_tensors(bert, old_norms),
    "float16": with_tensors(bert, stored_as(torch.float16)),
    "bfloat16": with_tensors(modernbert, stored_as(torch.bfloat16)),
    "float64": with_tensors(roberta, stored_as(torch.float64)),
    "buffers": with_tensors(bert, buffers),
    "shards": sharded,
    "biases": partial(modernbert, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True),
    "labels not said": edited(bert, "config.json", architectures=["BertModel"], id2label=..., label2id=...),
    # activations inside
    **{f"hidden_act {name}": partial(bert, hidden_act=name) for name in ("gelu_new", "relu", "silu", "quick_gelu")},
    "gelu_python": partial(bert, hidden_act="gelu_python"),
    "classifier_activation": partial(modernbert, classifier_activation="relu"),
    **{f"Dense {kind}": partial(chain, activation=getattr(torch.nn, kind)()) for kind in ("Tanh", "Sigmoid", "SiLU")},
    "Dense that names none": edited(chain, "2_Dense/config.json", activation_function=...),
    "scores by Sigmoid": partial(chain, last=torch.nn.Sigmoid()),
    "scores by Tanh": partial(chain, last=torch.nn.Tanh()),
    "Normalize and Dropout": partial(chain, between=normalize),
    "mean of a chain": partial(chain, pooling="mean"),
    "pooling by its old name": edited(
        chain, "1_Pooling/config.json", pooling_mode=..., pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    ),
    # activations outside, of each layout
    "layout of 3": edited(bert, "config.json", sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"),
    "layout of 3, foreign": edited(bert, "config.json", sbert_ce_default_activation_function="my.code.Act"),
    "layout of 4": edited(
        bert,
        "config.json",
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "4.1.0"},
    ),
    "layout of 6": partial(saved, activation_fn=torch.nn.Tanh()),
    "layout of 6, foreign": edited(saved, "config_sentence_transformers.json", activation_fn="my.code.Act"),
    # limits
    "endless model_max_length": edited(bert, "tokenizer_config.json", model_max_length=10**30),
    "no model_max_length": edited(bert, "tokenizer_config.json", model_max_length=...),
    "endless with rotary positions": edited(
        partial(modernbert, max_position_embeddings=50), "tokenizer_config.json", model_max_length=10**30
    ),
    "max_seq_length below": edited(saved, "sentence_bert_config.json", max_seq_length=32),
    "max_seq_length above": edited(saved, "sentence_bert_config.json", max_seq_length=100),
    "max_seq_length without modules": edited(bert, "sentence_bert_config.json", max_seq_length=32),
    "max_seq_length above the config": edited(chain, "sentence_bert_config.json", max_seq_length=9000),
    "max_length of a call": edited(saved, "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 24}}),
    "model_max_length of the module": edited(
        saved, "sentence_bert_config.json", tokenizer_args={"model_max_length": 40}, max_seq_length=50
    ),
    # tokenizers
    "truncation and padding in tokenizer.json": with_tokenizer(bert, cut_and_padded),
    "do_lower_case": edited(with_tokenizer(saved, case_kept), "sentence_bert_config.json", do_lower_case=True),
    "15 words": few_words,
    "another padding token": partial(roberta, xlm=True, pad_token_id=5),
}


def our_scores(folder: Path, query: str, texts: list[str]) -> list[np.ndarray]:
    """By compiled code, where this machine has it, and by PyTorch's operations."""
    checkpoint = Checkpoint(folder)
    tokenizer = load_tokenizer(checkpoint)
    scorers = [Scorer.load(checkpoint, "float32", "cpu", compiled=compiled) for compiled in (True, False)]
    return [Reranker(scorer, tokenizer).score(query, texts) for scorer in scorers]


@pytest.mark.parametrize("name", EQUAL)
def test_scores_as_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder = EQUAL[name](tmp_path)
    texts = documents(LENGTHS)
    theirs = reference_scores(folder, QUERY, texts, batch_size=3)
    assert np.std(theirs) > 1e-3, "scores that are all alike would prove nothing"
    check_checkpoint(Checkpoint(folder))
    for ours in our_scores(folder, QUERY, texts):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_the_compiled_code_is_compared(tmp_path: Path) -> None:
    if library() is None:
        pytest.skip("no compiled kernels on this machine")
    for build in (bert, roberta, modernbert, chain):
        scorer = Scorer.load(Checkpoint(build(tmp_path / build.__name__)), "float32", "cpu")
        assert isinstance(scorer._encoder, NativeEncoder)


@pytest.mark.parametrize("padding", [1, 5])
def test_a_padding_token_written_out_takes_no_position_of_roberta(padding: int, tmp_path: Path) -> None:
    folder = roberta(tmp_path, xlm=True, pad_token_id=padding)
    written = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(padding)
    texts = [f"a wing {written} heats {written}{written} the layer", "a wing heats", f"{written}", *documents([40])]
    for query in (QUERY, f"{written} wing"):
        theirs = reference_scores(folder, query, texts, batch_size=3)
        for ours in our_scores(folder, query, texts):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("build", [bert, roberta, modernbert])
def test_a_tokenizer_without_a_padding_token(build: Build, tmp_path: Path) -> None:
    """Sentence Transformers pads, and asks for one. Nothing is padded here, and scores are those of any padding."""
    folder = build(tmp_path)
    edit_json(folder / "tokenizer_config.json", pad_token=...)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.pad_token is None
    texts = documents(LENGTHS)
    theirs = reference_scores(folder, QUERY, texts, batch_size=1)  # so that it is asked for, and not used
    for ours in our_scores(folder, QUERY, texts):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_a_default_prompt_in_the_router_and_in_a_batch(tmp_path: Path) -> None:
    """Texts as the router encodes them: query and documents on their own, by the encoder of the vocabulary."""
    tokenizer = load_tokenizer(Checkpoint(saved(tmp_path, **PROMPT)))
    query, *texts = "how does a wing heat?", "a wing", "rank"
    own = AutoTokenizer.from_pretrained(tmp_path / "saved")
    expected = [own(f"Rank these: {query}", text)["input_ids"] for text in texts]
    ids = [part for part, _ in tokenizer.encoder.encode_beginnings(texts, 100)]
    pairs, _ = tokenizer.pair(tokenizer.encoder.encode_queries([query])[0], ids)
    assert pairs.ids.tolist() == [*chained(*expected)]
    assert tokenizer.encode_query(query).tolist() == tokenizer.encoder.encode_queries([query])[0].tolist()


def test_vocabularies_that_differ_in_the_prompt_are_told_apart(tmp_path: Path) -> None:
    saved(tmp_path)
    for name in ("prompted", "silent"):
        shutil.copytree(tmp_path / "saved", tmp_path / name)
    edit_json(tmp_path / "prompted" / "config_sentence_transformers.json", **PROMPT)
    edit_json(tmp_path / "silent" / "tokenizer_config.json", **NO_TYPES)
    plain, prompted, silent = (load_tokenizer(Checkpoint(tmp_path / name)) for name in ("saved", "prompted", "silent"))
    assert len({plain.identity, prompted.identity, silent.identity}) == 3
    assert plain.encoder is silent.encoder
    assert plain.encoder is not prompted.encoder


def test_a_small_vocabulary_is_measured(tmp_path: Path) -> None:
    scorer = Scorer.load(Checkpoint(few_words(tmp_path)), "float32", "cpu")
    assert len([*measure(scorer, LONGEST, QUICK, 1, 0.1)]) >= 3


# refused, with what the sentence says
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
def test_refused_before_the_weights_are_read(name: str, tmp_path: Path) -> None:
    build, reason = REFUSED[name]
    folder = build(tmp_path)
    said = sentence(lambda: check_checkpoint(Checkpoint(folder)))
    assert re.search(reason, said), said
    assert str(folder) in said
    assert "\n" not in said
    for load in (Scorer.load, Reranker.load):
        assert sentence(lambda load=load: load(Checkpoint(folder), "float32", device="cpu")) == said  # type: ignore[misc]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_cut_short(name: str, tmp_path: Path) -> None:
    path = bert(tmp_path) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = sentence(lambda: check_checkpoint(Checkpoint(tmp_path)))
    assert str(tmp_path) in said
    assert "\n" not in said
    assert sentence(lambda: Scorer.load(Checkpoint(tmp_path), "float32", "cpu")) == said


def test_a_shard_missing(tmp_path: Path) -> None:
    sharded(tmp_path)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    assert "is not a readable safetensors file" in sentence(lambda: check_checkpoint(Checkpoint(tmp_path)))


def test_widths_that_int8_does_not_have(tmp_path: Path) -> None:
    folder = bert(tmp_path, hidden_size=48)
    check_checkpoint(Checkpoint(folder), "float32")
    assert "widths that int8 is not made for" in sentence(lambda: check_checkpoint(Checkpoint(folder), "int8"))


def test_a_tier_without_room_for_texts(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    check_checkpoint(Checkpoint(folder), max_tokens=4)
    said = sentence(lambda: check_checkpoint(Checkpoint(folder), max_tokens=3))
    assert said == f"{folder}: the prompt alone has 3 tokens; allow pairs more than 3"


def test_no_weight_is_read(tmp_path: Path) -> None:
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
