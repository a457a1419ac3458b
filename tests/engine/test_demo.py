"""The tiers that ship with the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rankfleet.cli import app, evaluate, rank  # noqa: F401  (registers the verbs)
from rankfleet.core.passages import PassageRule
from rankfleet.engine.checkpoint.files import MODELS, find_checkpoint
from rankfleet.engine.checkpoint.storage import write_float32
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.estimates.fusion import Fusion

TIERS = ("small", "medium", "large")
RIGHT_FIRST = {
    "How do vaccines protect against disease?": [
        "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
        "The stock market closed higher on Friday after strong earnings.",
        "Heavy rain is expected in the north of the country this weekend.",
        "The vaccine was named after the Latin word for cow.",
    ],
    "who wrote the origin of species": [
        "On the Origin of Species was written by the English naturalist Charles Darwin and published in 1859.",
        "Species are groups of animals that can breed with one another.",
        "The castle was built in the twelfth century by the duke.",
    ],
    "symptoms of diabetes": [
        "Common signs of diabetes are thirst, frequent urination, tiredness and loss of weight.",
        "A headache may have many causes, among them stress and lack of sleep.",
        "The treaty ended the war and redrew the borders of the empire.",
    ],
}


@pytest.mark.parametrize("tier", TIERS)
def test_the_right_document_comes_first(tier: str) -> None:
    reranker = Reranker.load(find_checkpoint(f"demo/{tier}"), device="cpu")
    for query, documents in RIGHT_FIRST.items():
        assert int(reranker.score(query, documents).argmax()) == 0, query


@pytest.mark.parametrize("weight", [1.0, 2.0])
@pytest.mark.parametrize("tier", TIERS)
def test_the_right_document_comes_first_where_the_order_that_came_in_counts(tier: str, weight: float) -> None:
    reranker = Reranker.load(find_checkpoint(f"demo/{tier}"), device="cpu")
    for query, documents in RIGHT_FIRST.items():
        sent = [documents[1], documents[0], *documents[2:]]  # second, as the example of the README has it
        fusion = Fusion.of(len(sent), None, {tier: weight})
        fused = fusion.fused(tier, reranker.score(query, sent), np.arange(len(sent)))
        assert int(fused.argmax()) == 1, query


@pytest.mark.parametrize("tier", TIERS)
def test_exported_tiers_score_the_same_in_sentence_transformers(tier: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    checkpoint = find_checkpoint(f"demo/{tier}")
    write_float32(checkpoint, tmp_path / tier)
    reference = CrossEncoder(str(tmp_path / tier), device="cpu", model_kwargs={"dtype": torch.float32})
    ours = Reranker.load(checkpoint, "float32", device="cpu")
    for query, documents in RIGHT_FIRST.items():
        texts = [*documents, "", "word " * 700, "мир 世界 😀", " ".join(documents)]
        theirs = reference.predict([(query, t) for t in texts], activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(ours.score(query, texts), theirs, atol=1e-4, rtol=0)


FILLER = "Heavy rain is expected in the north of the country this weekend. " * 40
BURIED = [FILLER, FILLER + RIGHT_FIRST["symptoms of diabetes"][0], "The treaty ended the war."]


def test_the_end_of_a_long_document_counts_with_max_passage() -> None:
    reranker = Reranker.load(find_checkpoint("demo/small"), device="cpu")
    beginnings = reranker.score("symptoms of diabetes", BURIED)
    assert beginnings[0] == pytest.approx(beginnings[1], abs=1e-5)  # cut alike
    passages = reranker.score("symptoms of diabetes", BURIED, PassageRule(overlap_tokens=32, max_passages=16))
    assert int(passages.argmax()) == 1
    assert passages[2] == pytest.approx(beginnings[2], abs=1e-5)


def test_rank_scores_the_best_passage_with_long_documents_max_passage() -> None:
    asked = ["rank", "symptoms of diabetes", *BURIED, "--tier", "small", "--top", "1"]
    result = CliRunner().invoke(app, [*asked, "--long-documents", "max_passage"])
    assert result.exit_code == 0, result.output
    assert "thirst" in result.output


def test_demo_tiers_are_below_30_mb_and_share_one_vocabulary() -> None:
    assert sum(path.stat().st_size for path in (MODELS / "demo").rglob("*.safetensors")) < 30_000_000
    assert len({load_tokenizer(find_checkpoint(f"demo/{tier}")).identity for tier in TIERS}) == 1


def test_each_demo_tier_costs_clearly_more_than_the_one_below() -> None:
    def products(tier: str) -> int:
        """Weights a token meets; in the last layer keys and values only, the rest is for first tokens alone."""
        config = find_checkpoint(f"demo/{tier}").config
        hidden, inner = config.hidden_size, config.intermediate_size
        return (config.num_hidden_layers - 1) * (4 * hidden**2 + 2 * hidden * inner) + 2 * hidden**2

    costs = [products(tier) for tier in TIERS]
    assert costs[1] > 1.5 * costs[0]
    assert costs[2] > 2.5 * costs[1]
