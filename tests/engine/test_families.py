"""The contract of `Family`: what every member of FAMILIES has to hold, and that a new one is one record."""

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import ElectraConfig, ElectraForSequenceClassification

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.packing import pack
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.weights import Weights
from rankfleet.engine.models.bert import BERT
from rankfleet.engine.models.families import FAMILIES
from rankfleet.engine.models.family import Family
from rankfleet.engine.models.heads import Head
from rankfleet.engine.native.encoder import NativeEncoder
from rankfleet.engine.native.library import library
from rankfleet.engine.runtime.measure import synthetic_pairs
from rankfleet.engine.runtime.scorer import Scorer
from tests.engine import checkpoints
from tests.engine.parity import QUERY, assert_equal_scores, documents

# A tiny random checkpoint of each family, by `model_type`: one that fits the compiled kernels if the family has a
# native layout, and whose longest pair is at most 512 tokens.
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "bert": checkpoints.tiny_bert,
    "modernbert": checkpoints.tiny_modernbert,
    "qwen2": partial(checkpoints.qwen2_reranker, max_length=120),
    "roberta": checkpoints.tiny_roberta,
    "xlm-roberta": partial(checkpoints.tiny_roberta, xlm=True),
}
DOCUMENTS = documents([0, 1, 5, 17, 30, 30, 45, 200])  # the last one is cut to the longest pair
PAGE = Path(__file__).parents[2] / "docs/add-a-family.md"


def checkpoint_of(model_type: str, folder: Path) -> Checkpoint:
    if model_type not in BUILDERS:
        pytest.fail(f"{model_type} is in FAMILIES: give it a builder in BUILDERS")
    checkpoint = Checkpoint(BUILDERS[model_type](folder))
    assert checkpoint.config.model_type == model_type
    return checkpoint


@pytest.mark.parametrize("model_type", FAMILIES)
def test_scores_are_those_of_sentence_transformers(model_type: str, tmp_path: Path) -> None:
    assert_equal_scores(checkpoint_of(model_type, tmp_path).folder, QUERY, DOCUMENTS)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_pooled_tokens_have_the_hidden_states_of_a_full_pass(model_type: str, tmp_path: Path) -> None:
    scorer = Scorer.load(checkpoint_of(model_type, tmp_path), "float32", "cpu", compiled=False)
    pairs = synthetic_pairs(5, 24, scorer.max_pair, vocabulary=900)
    batch = pack(pairs.take(np.argsort(pairs.lengths, kind="stable")), torch.device("cpu"))
    rows = {"first": batch.firsts, "last": batch.lasts}[FAMILIES[model_type].pooled]
    with torch.inference_mode():
        torch.testing.assert_close(scorer._encoder(batch, pooled_only=True), scorer._encoder(batch)[rows])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_only_causal_families_see_no_later_token(model_type: str, tmp_path: Path) -> None:
    scorer = Scorer.load(checkpoint_of(model_type, tmp_path), "float32", "cpu", compiled=False)
    length = np.array([9], np.int32)
    ids = np.arange(10, 19, dtype=np.int32)
    changed = ids.copy()
    changed[-1] = 30
    with torch.inference_mode():
        first, other = (
            scorer._encoder(pack(TokenizedPairs(tokens, length, length), torch.device("cpu")))[0]
            for tokens in (ids, changed)
        )
    assert torch.equal(first, other) == FAMILIES[model_type].causal


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.native])
def test_compiled_kernels_give_the_scores_of_pytorch(model_type: str, tmp_path: Path) -> None:
    if library() is None:
        pytest.skip("no compiled kernels on this machine")
    checkpoint = checkpoint_of(model_type, tmp_path)
    native = Scorer.load(checkpoint, "float32", "cpu")
    plain = Scorer.load(checkpoint, "float32", "cpu", compiled=False)
    assert isinstance(native._encoder, NativeEncoder)
    pairs = synthetic_pairs(12, 40, native.max_pair, vocabulary=900)
    expected = plain.score(pairs)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(native.score(pairs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.position_offset])
def test_the_longest_pair_ends_at_the_last_row_of_the_position_table(model_type: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(model_type, tmp_path)
    saved = checkpoint.folder / "tokenizer_config.json"

    def limit_to(tokens: int) -> None:
        saved.write_text(json.dumps(json.loads(saved.read_text()) | {"model_max_length": tokens}))

    limit_to(100_000)
    scorer = Scorer.load(checkpoint, "float32", "cpu", compiled=False)
    length = np.array([scorer.max_pair], np.int32)
    batch = pack(TokenizedPairs(np.full(scorer.max_pair, 9, np.int32), length, length), torch.device("cpu"))
    rows = checkpoint.config.max_position_embeddings
    assert int(scorer._encoder.position_ids(batch).max()) == rows - 1  # type: ignore[union-attr]
    limit_to(scorer.max_pair)  # Sentence Transformers itself may read past the table where nothing limits it
    assert_equal_scores(checkpoint.folder, QUERY, documents([5, 400]))


def electra_head(config: Any, weights: Weights) -> Head:
    hidden = config.hidden_size
    dense = weights.linear("classifier.dense", out=hidden, inner=hidden)
    return Head("cls", [dense, functional.gelu, weights.linear("classifier.out_proj", out=1, inner=hidden)])


def test_a_bert_like_family_is_one_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ELECTRA: BERT's layers under other names, and another head."""
    monkeypatch.setitem(FAMILIES, "electra", replace(BERT, prefix="electra.", head=electra_head))
    model = ElectraForSequenceClassification(
        ElectraConfig(
            vocab_size=1000,
            embedding_size=64,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=128,
            num_labels=1,
        )
    )
    checkpoints.spread(model)
    model.save_pretrained(tmp_path)
    checkpoints.word_piece(tmp_path, checkpoints.MAX_PAIR)
    assert_equal_scores(tmp_path, QUERY, DOCUMENTS)
    if library() is not None:
        assert isinstance(Scorer.load(Checkpoint(tmp_path), "float32", "cpu")._encoder, NativeEncoder)


def test_the_page_on_adding_a_family_names_every_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [field.name for field in fields(Family) if f"`{field.name}`" not in page]
    assert not missing
    paths = re.findall(r"`((?:serve|tests)/[\w/]+\.py)`", page)
    assert paths
    assert not [path for path in paths if not (PAGE.parents[1] / path).exists() and "NAME" not in path]


def test_no_other_module_of_the_engine_names_a_family() -> None:
    engine = PAGE.parents[1] / "serve/rankfleet/engine"
    names = re.compile("|".join(f"[\"']{re.escape(name)}[\"']" for name in FAMILIES))
    found = {
        path.relative_to(engine).as_posix()
        for path in engine.rglob("*.py")
        if names.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"models/families.py"}
