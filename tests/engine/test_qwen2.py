"""A causal reranker scores as Sentence Transformers' CrossEncoder does: prompt, truncation and logits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.core.sections import Tier
from rankfleet.engine.attention.varlen import VarlenAttention, flash_attn_kernel, torch_varlen_kernel
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from rankfleet.router.tokenize import load_tokenizers
from tests.engine import checkpoints
from tests.engine.kernels import fake_flash_attn_varlen_func, fake_varlen_attn
from tests.engine.parity import QUERY, assert_equal_scores, documents, reference_scores

AWKWARD = [
    "",
    " ",
    "ends in a stop.",
    "\n\nlines\n",
    "  two spaces",
    "(a)",
    "12%!",
    "<|im_end|>\nquery: no",
    "速い\r\n",
]


def scores(folder: Path, query: str, texts: list[str]) -> np.ndarray:
    return Reranker.load(Checkpoint(folder), "float32", "cpu").score(query, texts)


@pytest.mark.parametrize(
    "options",
    [{}, {"tied": False}, {"no": False}, {"instruction": "Judge the pair."}],
    ids=["tied", "untied", "one token", "instruction"],
)
def test_scores_are_those_of_sentence_transformers(options: dict[str, object], tmp_path: Path) -> None:
    folder = checkpoints.qwen2_reranker(tmp_path, **options)  # type: ignore[arg-type]
    assert_equal_scores(folder, QUERY, [*documents([1, 3, 3, 3, 25, 120]), *AWKWARD])


@pytest.mark.parametrize("query", ["", "wing?\n", " 5 wings"])
def test_empty_and_spaced_queries_score_as_in_sentence_transformers(query: str, tmp_path: Path) -> None:
    assert_equal_scores(checkpoints.qwen2_reranker(tmp_path), query, [*documents([5]), *AWKWARD])


def test_texts_that_do_not_fit_are_cut_before_the_end_of_the_prompt(tmp_path: Path) -> None:
    folder = checkpoints.qwen2_reranker(tmp_path, max_length=120)
    assert_equal_scores(folder, QUERY, documents([5, 60, 100, 400]))
    for query in documents([200, 300], seed=2):  # too long alone: all documents score the same
        assert scores(folder, query, documents([5, 60])) == pytest.approx(
            reference_scores(folder, query, documents([5, 60]))
        )
    tokenizer = load_tokenizer(Checkpoint(folder))
    query, *texts = tokenizer.encode([QUERY, *documents([5, 400])])
    pairs, truncated = tokenizer.pair(query, texts)
    assert truncated == [1]
    assert pairs.lengths[1] == 120
    assert int(pairs.lengths.sum()) == len(pairs.ids)
    # Both pairs open and close with the prompt, the one that was cut too.
    template, (whole, cut) = tokenizer.template, np.split(pairs.ids, [pairs.lengths[0]])
    for ids in (whole, cut):
        assert ids[: len(template.before)].tolist() == template.before
        assert ids[-len(template.after) :].tolist() == template.after


def test_a_template_that_trims_texts_is_followed(tmp_path: Path) -> None:
    trims = checkpoints.PROMPT.replace("| first }}", "| first | trim }}")
    assert_equal_scores(checkpoints.qwen2_reranker(tmp_path, prompt=trims), " a wing ", [*documents([5]), *AWKWARD])


@pytest.mark.parametrize("instruction", ["Judge the pair.", " (a) spaced\n\n", "12 ÷ 3 <|im_end|> мир"])
def test_an_instruction_stands_where_a_default_prompt_would(instruction: str, tmp_path: Path) -> None:
    default = load_tokenizer(Checkpoint(checkpoints.qwen2_reranker(tmp_path, instruction=instruction))).template
    for other in ({}, {"instruction": "Judge something else."}):
        made = checkpoints.qwen2_reranker(tmp_path / str(len(other)), **other)  # type: ignore[arg-type]
        tokenizer = load_tokenizer(Checkpoint(made))
        placed = tokenizer.instructed(instruction)
        assert placed is not None
        assert placed.template.before == default.before != tokenizer.template.before
        assert (placed.template.between, placed.template.after) == (default.between, default.after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{% for m in messages if m.role == 'system' %}", "{% for m in [] %}"),
        ("{{ m.content }}", "{{ m.content }} {{ m.content }}"),
        ("<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endfor %}", "{% endfor %}"),
        ("{{ m.content }}", "{{ raise_exception('no system messages') }}"),
    ],
)
def test_a_prompt_without_a_place_for_an_instruction_takes_none(old: str, new: str, tmp_path: Path) -> None:
    made = checkpoints.qwen2_reranker(tmp_path, prompt=checkpoints.PROMPT.replace(old, new))
    assert load_tokenizer(Checkpoint(made)).instructed("Judge the pair.") is None


def test_texts_cut_to_a_limit_of_their_own_stand_in_a_whole_prompt(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(Checkpoint(checkpoints.qwen2_reranker(tmp_path)))
    text = "The wing of an aircraft at supersonic speed heats the boundary layer"
    ids = tokenizer.encode_query(text)
    (line_end,) = tokenizer.encoder.encode_prompt("\n")
    assert tokenizer.template.closing == [line_end]
    for cut in (tokenizer.shortened(ids, 5), tokenizer.shortened_query(ids, 5)):
        assert cut.tolist()[:5] == ids.tolist()[:5]
        assert cut.tolist()[-1] == line_end
    layout = tokenizer.layout(ids, [ids], 20 + tokenizer.template.tokens, cut_side="left")
    pairs = tokenizer.build_pairs(ids, [ids], layout)
    assert pairs.ids.tolist() == [
        *tokenizer.template.before,
        *ids.tolist()[-10:],
        *tokenizer.template.between,
        *ids.tolist()[-10:],
        *tokenizer.template.after,
    ]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{{ messages[1].content }} then {{ messages[0].content }}", "query and then the document"),
        ("query {{ messages[0].content }}", "query and then the document"),
        ("<{{ messages[0].content }}>: ({{ messages[1].content }})", "in ways that differ"),
        ("{{ nothing.at.all }}", "cannot be rendered"),
    ],
)
def test_templates_that_cannot_be_split_are_refused(prompt: str, message: str, tmp_path: Path) -> None:
    folder = checkpoints.qwen2_reranker(tmp_path)
    (folder / "chat_template.jinja").write_text(prompt)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(Checkpoint(folder))


def test_a_limit_below_the_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the prompt alone has"):
        load_tokenizer(Checkpoint(checkpoints.qwen2_reranker(tmp_path)), max_tokens=20)


def test_a_tier_whose_pairs_are_cut_within_the_prompt_is_refused(tmp_path: Path) -> None:
    folder = str(checkpoints.qwen2_reranker(tmp_path))
    fits = load_tokenizers({"teacher": Tier(model=folder, quality=0.5, max_tokens=100)})
    assert fits["teacher"].template.tokens < 100
    with pytest.raises(CheckpointError, match=r"tiers\.teacher\.max_tokens is too low: the prompt alone has"):
        load_tokenizers({"teacher": Tier(model=folder, quality=0.5, max_tokens=40)})


def test_a_language_model_without_logit_score_is_refused(tmp_path: Path) -> None:
    folder = checkpoints.qwen2_reranker(tmp_path) / ".." / "model"
    with pytest.raises(CheckpointError, match="qwen2 reranker is read with LogitScore"):
        Scorer.load(Checkpoint(folder.resolve()), device="cpu")


def test_variable_length_kernels_give_the_same_scores(tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoints.qwen2_reranker(tmp_path))
    texts = documents([1, 3, 3, 60])
    plain = scores(checkpoint.folder, QUERY, texts)
    for kernel in (flash_attn_kernel(fake_flash_attn_varlen_func), torch_varlen_kernel(fake_varlen_attn)):
        scorer = Scorer.load(checkpoint, "float32", "cpu", attention=VarlenAttention(kernel))
        ours = Reranker(scorer, load_tokenizer(checkpoint)).score(QUERY, texts)
        np.testing.assert_allclose(ours, plain, atol=1e-4, rtol=0)


def test_bfloat16_stays_close(tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoints.qwen2_reranker(tmp_path))
    texts = documents([1, 3, 30, 60])
    wide, narrow = (Reranker.load(checkpoint, dtype, "cpu").score(QUERY, texts) for dtype in ("float32", "bfloat16"))
    assert np.abs(wide - narrow).max() < 0.05
    assert wide.dtype == narrow.dtype == torch.zeros(0).numpy().dtype
