"""Cross-encoders as people have saved them: each scores as `sentence_transformers.CrossEncoder` scores it, in compiled
code and in PyTorch's operations."""

import shutil
from functools import partial
from itertools import chain as chained
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.native.encoder import NativeEncoder
from rankfleet.engine.native.library import library
from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.measure import QUICK, measure
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from tests.engine.checkpoints import MAX_PAIR
from tests.engine.checkpoints import tiny_bert as bert
from tests.engine.checkpoints import tiny_modernbert as modernbert
from tests.engine.checkpoints import tiny_roberta as roberta
from tests.engine.parity import QUERY, documents, reference_scores
from tests.engine.saved import (
    NO_TYPES,
    PROMPT,
    Build,
    buffers,
    case_kept,
    chain,
    cut_and_padded,
    edit_json,
    edited,
    embedding_model,
    few_words,
    normalize,
    old_norms,
    saved,
    sharded,
    stored_as,
    typed,
    unigram,
    with_tensors,
    with_tokenizer,
    without_modules,
)

LENGTHS = [1, 2, 5, 17, 30, 30, 45, 200]  # words
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
def test_it_scores_as_in_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder = EQUAL[name](tmp_path)
    texts = documents(LENGTHS)
    theirs = reference_scores(folder, QUERY, texts, batch_size=3)
    assert np.std(theirs) > 1e-3, "scores that are all alike would prove nothing"
    check_checkpoint(Checkpoint(folder))
    for ours in our_scores(folder, QUERY, texts):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_the_compiled_kernels_take_part_in_these_comparisons(tmp_path: Path) -> None:
    if library() is None:
        pytest.skip("no compiled kernels on this machine")
    for build in (bert, roberta, modernbert, chain):
        scorer = Scorer.load(Checkpoint(build(tmp_path / build.__name__)), "float32", "cpu")
        assert isinstance(scorer._encoder, NativeEncoder)


@pytest.mark.parametrize("padding", [1, 5])
def test_a_padding_token_in_a_text_takes_no_position_in_roberta(padding: int, tmp_path: Path) -> None:
    folder = roberta(tmp_path, xlm=True, pad_token_id=padding)
    written = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(padding)
    texts = [f"a wing {written} heats {written}{written} the layer", "a wing heats", f"{written}", *documents([40])]
    for query in (QUERY, f"{written} wing"):
        theirs = reference_scores(folder, query, texts, batch_size=3)
        for ours in our_scores(folder, query, texts):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("build", [bert, roberta, modernbert])
def test_a_tokenizer_without_a_padding_token_scores_as_in_sentence_transformers(build: Build, tmp_path: Path) -> None:
    """Sentence Transformers pads and needs such a token. The engine pads nothing; scores are those of any padding."""
    folder = build(tmp_path)
    edit_json(folder / "tokenizer_config.json", pad_token=...)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.pad_token is None
    texts = documents(LENGTHS)
    theirs = reference_scores(folder, QUERY, texts, batch_size=1)  # needs a padding token without using it
    for ours in our_scores(folder, QUERY, texts):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_the_default_prompt_is_encoded_with_the_query_only(tmp_path: Path) -> None:
    """As in the router, query and documents are encoded separately, by the encoder of the vocabulary."""
    tokenizer = load_tokenizer(Checkpoint(saved(tmp_path, **PROMPT)))
    query, *texts = "how does a wing heat?", "a wing", "rank"
    own = AutoTokenizer.from_pretrained(tmp_path / "saved")
    expected = [own(f"Rank these: {query}", text)["input_ids"] for text in texts]
    ids = [part for part, _ in tokenizer.encoder.encode_beginnings(texts, 100)]
    pairs, _ = tokenizer.pair(tokenizer.encoder.encode_queries([query])[0], ids)
    assert pairs.ids.tolist() == [*chained(*expected)]
    assert tokenizer.encode_query(query).tolist() == tokenizer.encoder.encode_queries([query])[0].tolist()


def test_tokenizers_that_differ_in_prompt_or_segments_have_other_identities(tmp_path: Path) -> None:
    saved(tmp_path)
    for name in ("prompted", "silent"):
        shutil.copytree(tmp_path / "saved", tmp_path / name)
    edit_json(tmp_path / "prompted" / "config_sentence_transformers.json", **PROMPT)
    edit_json(tmp_path / "silent" / "tokenizer_config.json", **NO_TYPES)
    plain, prompted, silent = (load_tokenizer(Checkpoint(tmp_path / name)) for name in ("saved", "prompted", "silent"))
    assert len({plain.identity, prompted.identity, silent.identity}) == 3
    assert plain.encoder is silent.encoder
    assert plain.encoder is not prompted.encoder


def test_a_vocabulary_of_15_words_can_be_measured(tmp_path: Path) -> None:
    scorer = Scorer.load(Checkpoint(few_words(tmp_path)), "float32", "cpu")
    assert len([*measure(scorer, MAX_PAIR, QUICK, 1, 0.1)]) >= 3
