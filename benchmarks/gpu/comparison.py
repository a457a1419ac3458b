"""This engine against Sentence Transformers on the same card and texts."""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.contest.contenders import load_cross_encoder
from benchmarks.gpu.random_model import MAX_TOKENS, MEAN_TOKENS, RandomModel, Result, Setting, seconds

from rankfleet.bench.sample_texts import pair_lengths, write_request
from rankfleet.core.cpus import usable_cpus
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Reranker

# pairs/s from the blog "Introducing the Ettin Reranker Family": H100, natural lengths.
PUBLISHED_H100 = {"17m": 7517, "32m": 6602, "68m": 4913, "150m": 3237, "400m": 1738, "1b": 928}
# How the peer runs: as it is, and as its documentation compiles it. The best of them is what ratios are to.
PEERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "dynamic=True": {"dynamic": True},
    "reduce-overhead": {"mode": "reduce-overhead"},
}
SIZES = (32, 128, 256, 512, 1024)  # batch sizes that the peer is tried at
CHUNK = 512  # documents that a thread tokenizes at a time


def peer_attention(setting: Setting) -> str:
    """What the peer runs on, for the results."""
    if not setting.cuda:
        return "fp32 + SDPA on CPU"
    try:
        import flash_attn

        return f"bf16 + Flash Attention 2 unpadded (flash-attn {flash_attn.__version__})"
    except Exception:
        return "bf16 + SDPA padded: flash-attn is not installed, so this is not the published path"


class Peer:
    """Sentence Transformers, compiled or not, at its best batch sizes: one from texts, one from features."""

    def __init__(self, model: RandomModel, dtype: str, options: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
        self.setting, self.pairs = model.setting, pairs
        self.model = load_cross_encoder(str(model.folder), dtype, model.setting.device.type, MAX_TOKENS)
        if options:  # without a card, a rehearsal that compiles nothing
            self.model.compile(**options, **({} if self.setting.cuda else {"backend": "eager"}))
        sizes = SIZES[: self.setting.some(len(SIZES), 1)]
        self.batch_size = min(sizes, key=lambda size: self.best_s(partial(self.predict, size)))
        longest_first = sorted(pairs, key=lambda pair: -len(pair[1]))
        prepared = {
            size: [self.model.preprocess(longest_first[at : at + size]) for at in range(0, len(pairs), size)]
            for size in sizes
        }
        self.features_size = min(sizes, key=lambda size: self.best_s(partial(self.forward, prepared[size])))
        self.features = prepared[self.features_size]

    def best_s(self, work: Callable[[], object]) -> float:
        return min(seconds(self.setting, work, 1, 1))

    def predict(self, batch_size: int) -> np.ndarray:
        return np.asarray(
            self.model.predict(
                self.pairs, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        )

    @torch.inference_mode()
    def forward(self, prepared: list[Any]) -> None:
        for batch in prepared:
            moved = {k: v.to(self.setting.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            self.model(moved)["scores"].float().cpu()


def score_while_tokenizing(ours: Reranker, query: str, documents: list[str], threads: int) -> None:
    """Tokenize chunks of documents on several threads, as several routers do, and score each as it is ready."""
    [query_ids] = ours.tokenizer.encode([query])
    chunks = [documents[at : at + CHUNK] for at in range(0, len(documents), CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        for ids in pool.map(ours.tokenizer.encode, chunks):
            ours.scorer.score(ours.tokenizer.pair(query_ids, ids)[0])


def compare(model: RandomModel) -> Result:
    """Compare with Sentence Transformers, compiled and not, on the same card and texts, each at its best batch size."""
    setting = model.setting
    dtype = "bfloat16" if setting.cuda else "float32"
    ours = Reranker(model.scorer(dtype), load_tokenizer(Checkpoint(model.folder), MAX_TOKENS))
    lengths = pair_lengths(setting.some(4000, 12), MEAN_TOKENS, MAX_TOKENS)
    texts = write_request(lengths, lambda t: len(ours.tokenizer.encode([t])[0]), ours.tokenizer.template.tokens)
    query, documents = texts.query, texts.documents
    ids, *document_ids = ours.tokenizer.encode([query, *documents])
    pairs, _ = ours.tokenizer.pair(ids, document_ids)
    threads = usable_cpus()
    arms: dict[str, Callable[[], object]] = {
        "rankfleet, from texts": lambda: ours.score(query, documents),
        "rankfleet, from texts on all threads": lambda: score_while_tokenizing(ours, query, documents, threads),
        "rankfleet, from token ids": lambda: ours.scorer.score(pairs),
    }
    peers: dict[str, Peer] = {}
    failed: dict[str, str] = {}
    for name, options in PEERS.items():
        try:
            peer = peers[name] = Peer(model, dtype, options, [(query, document) for document in documents])
        except Exception as error:  # one way to compile that fails leaves the others
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        arms |= {f"peer {name}, from texts": partial(peer.predict, peer.batch_size)}
        arms |= {f"peer {name}, from features": partial(peer.forward, peer.features)}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():
        work()
    for _ in range(setting.some(5, 1)):
        for name, work in arms.items():
            times[name] += seconds(setting, work, 1, 0)
    speed = {name: round(len(documents) / statistics.median(taken), 1) for name, taken in times.items()}

    def best(end: str) -> float:
        return max(speed[name] for name in speed if name.startswith("peer") and name.endswith(end))

    return {
        "pairs": len(documents),
        "mean_tokens": round(float(pairs.lengths.mean()), 1),
        "threads": threads,
        "rankfleet": {"dtype": dtype, "backend": setting.best},
        "peer": {
            "name": "sentence-transformers",
            "as": peer_attention(setting),
            "batch_size": {name: peer.batch_size for name, peer in peers.items()},
            "features_batch_size": {name: peer.features_size for name, peer in peers.items()},
            "failed": failed,
        },
        "pairs_per_s": speed,
        "ratio": {
            "from texts": round(speed["rankfleet, from texts"] / best("from texts"), 2),
            "tokenized before": round(speed["rankfleet, from token ids"] / best("from features"), 2),
            "token ids against texts": round(speed["rankfleet, from token ids"] / best("from texts"), 2),
        },
        "published_h100_pairs_per_s": PUBLISHED_H100.get(model.shape),
        "max_abs_diff": {
            name: float(np.abs(ours.score(query, documents) - peer.predict(peer.batch_size)).max())
            for name, peer in peers.items()
        },
    }
