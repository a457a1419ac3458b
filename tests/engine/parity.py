"""Texts to score, and scores by Sentence Transformers to compare with."""

import random
from pathlib import Path

import numpy as np
import torch

from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Reranker, Scorer
from tests.engine.checkpoints import TEXT

QUERY = "how does the boundary layer heat a wing?"
WORDS = " ".join(TEXT[:4]).split()


def documents(lengths: list[int], seed: int = 1) -> list[str]:
    """Documents of these lengths in words."""
    words = random.Random(seed)
    return [" ".join(words.choices(WORDS, k=count)) for count in lengths]


def reference_scores(folder: Path, query: str, texts: list[str], batch_size: int = 32) -> np.ndarray:
    """Raw logits of `sentence_transformers.CrossEncoder` in float32 on the CPU."""
    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    if reference[0].tokenizer.pad_token is None:
        reference[0].tokenizer.pad_token = reference[0].tokenizer.unk_token
    pairs = [(query, text) for text in texts]
    return reference.predict(pairs, batch_size=batch_size, activation_fn=torch.nn.Identity())


def assert_equal_scores(folder: Path, query: str, texts: list[str], batch_size: int = 4, atol: float = 1e-4) -> None:
    """The plain path and, where this machine has it, the compiled one give the scores of Sentence Transformers."""
    theirs = reference_scores(folder, query, texts, batch_size)
    assert np.std(theirs) > 1e-3, "scores that are all alike would prove nothing"
    checkpoint = Checkpoint(folder)
    tokenizer = load_tokenizer(checkpoint)
    for compiled in (True, False):
        scorer = Scorer.load(checkpoint, "float32", "cpu", compiled=compiled)
        np.testing.assert_allclose(Reranker(scorer, tokenizer).score(query, texts), theirs, atol=atol, rtol=0)
