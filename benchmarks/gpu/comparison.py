"""This engine against Sentence Transformers on the same card and texts."""

import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.gpu.random_model import MAX_TOKENS, RandomModel, Result, Setting, mixed_lengths, seconds
from tests.engine.checkpoints import TEXT

from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.engine.text.tokenizer import PairTokenizer

# pairs/s from the blog "Introducing the Ettin Reranker Family": H100, natural lengths.
PUBLISHED_H100 = {"17m": 7517, "32m": 6602, "68m": 4913, "150m": 3237, "400m": 1738, "1b": 928}


def texts(tokenizer: PairTokenizer, count: int) -> tuple[str, list[str]]:
    """A query and documents that make pairs of about 154 tokens."""
    rng = random.Random(1)
    words = " ".join(TEXT[:4]).split()
    query = "how does the boundary layer heat a wing?"
    per_word = len(tokenizer.encode([" ".join(words)])[0]) / len(words)
    lengths = mixed_lengths(count) - len(tokenizer.encode([query])[0]) - 3
    return query, [" ".join(rng.choices(words, k=max(1, round(n / per_word)))) for n in lengths.tolist()]


def peer_attention(setting: Setting) -> tuple[str, str]:
    """Attention implementation of Sentence Transformers, and its name in the results."""
    if not setting.cuda:
        return "sdpa", "fp32 + SDPA on CPU"
    try:
        import flash_attn

        return "flash_attention_2", f"bf16 + Flash Attention 2 unpadded (flash-attn {flash_attn.__version__})"
    except Exception:
        return "sdpa", "bf16 + SDPA padded: flash-attn is not installed, so this is not the published path"


def compare(model: RandomModel) -> Result:
    """Compare with Sentence Transformers on the same card and texts, in turn, each at its best batch size."""
    from sentence_transformers import CrossEncoder

    setting = model.setting
    implementation, label = peer_attention(setting)
    dtype = "bfloat16" if setting.cuda else "float32"
    peer = CrossEncoder(
        str(model.folder),
        device=str(setting.device),
        model_kwargs={"dtype": getattr(torch, dtype), "attn_implementation": implementation},
        processor_kwargs={"model_max_length": MAX_TOKENS},
    )
    ours = Reranker(model.scorer(dtype), load_tokenizer(Checkpoint(model.folder), MAX_TOKENS))
    query, documents = texts(ours.tokenizer, setting.some(2000, 12))
    ids, *document_ids = ours.tokenizer.encode([query, *documents])
    pairs, _ = ours.tokenizer.pair(ids, document_ids)
    both = [(query, document) for document in documents]

    def predict(batch_size: int) -> np.ndarray:
        return np.asarray(
            peer.predict(both, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        )

    order = np.argsort([-len(d) for d in documents])

    def features(batch_size: int) -> list[Any]:
        return [
            peer.preprocess([both[i] for i in order[at : at + batch_size]]) for at in range(0, len(both), batch_size)
        ]

    @torch.inference_mode()
    def forward(prepared: list[Any]) -> None:
        for batch in prepared:
            moved = {k: v.to(setting.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            peer(moved)["scores"].float().cpu()

    sizes = (32, 128, 256, 512, 1024)[: setting.some(5, 1)]
    best = min(sizes, key=lambda size: min(seconds(setting, lambda: predict(size), 1, 1)))
    prepared = {size: features(size) for size in sizes}
    best_forward = min(sizes, key=lambda size: min(seconds(setting, lambda: forward(prepared[size]), 1, 1)))
    arms: dict[str, Callable[[], object]] = {
        "rankfleet, from texts": lambda: ours.score(query, documents),
        "rankfleet, from token ids": lambda: ours.scorer.score(pairs),
        "peer, from texts": lambda: predict(best),
        "peer, from features": lambda: forward(prepared[best_forward]),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():
        work()
    for _ in range(setting.some(5, 1)):
        for name, work in arms.items():
            times[name] += seconds(setting, work, 1, 0)
    speed = {name: round(len(both) / statistics.median(taken), 1) for name, taken in times.items()}
    return {
        "pairs": len(both),
        "mean_tokens": round(float(pairs.lengths.mean()), 1),
        "rankfleet": {"dtype": dtype, "backend": setting.best},
        "peer": {"name": "sentence-transformers", "as": label, "batch_size": best, "features_batch_size": best_forward},
        "pairs_per_s": speed,
        "ratio": {
            "from texts": round(speed["rankfleet, from texts"] / speed["peer, from texts"], 2),
            "tokenized before": round(speed["rankfleet, from token ids"] / speed["peer, from features"], 2),
            "token ids against texts": round(speed["rankfleet, from token ids"] / speed["peer, from texts"], 2),
        },
        "published_h100_pairs_per_s": PUBLISHED_H100.get(model.shape),
        "max_abs_diff": float(np.abs(ours.score(query, documents) - predict(best)).max()),
    }
