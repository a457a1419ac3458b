"""The scorer: one checkpoint on one device, pairs in, raw logits out."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.core.layout import PassageRule
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.bert import BertEncoder
from rankfleet.engine.checkpoint import Checkpoint
from rankfleet.engine.heads import Head, chained_head, classification_head
from rankfleet.engine.modernbert import ModernBertEncoder
from rankfleet.engine.packing import PackedBatch, batches, pack
from rankfleet.engine.tokenizer import PairTokenizer, max_pair_tokens
from rankfleet.engine.weights import Weights

Encoder = Callable[[PackedBatch, bool], torch.Tensor]
ENCODERS: dict[str, tuple[Callable[..., Encoder], str]] = {
    "bert": (BertEncoder, "bert."),
    "roberta": (BertEncoder, "roberta."),
    "xlm-roberta": (BertEncoder, "roberta."),
    "modernbert": (ModernBertEncoder, "model."),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# One forward pass holds at most this many tokens: large enough for full matrix products, small enough that
# activations stay near the caches of a CPU and far below the memory of a GPU.
TOKENS_PER_PASS = {"cpu": 4096, "cuda": 65536}


class Scorer:
    """Scores equal those of `sentence_transformers.CrossEncoder` on the same checkpoint, without activation."""

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        device: torch.device,
        max_pair: int,
    ) -> None:
        """max_pair: tokens of the longest pair the encoder takes."""
        self._encoder = encoder
        self._head = head
        self._device = device
        self._max_tokens = TOKENS_PER_PASS.get(device.type, TOKENS_PER_PASS["cpu"])
        self.max_pair = max_pair

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: str = "float32", device: str | None = None) -> "Scorer":
        """dtype: float32 or bfloat16. device: a torch device, by default the GPU where there is one.

        Raises CheckpointError when the checkpoint is of a kind that is not supported.
        """
        config = checkpoint.config
        if config.model_type not in ENCODERS:
            known = ", ".join(sorted(ENCODERS))
            raise CheckpointError(f"{checkpoint.folder} is a {config.model_type!r} model; supported are {known}")
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        weights = Weights(checkpoint.tensors(), DTYPES[dtype], where)
        build, prefix = ENCODERS[config.model_type]
        encoder = build(config, weights.under(prefix))
        modules = checkpoint.head()
        head = chained_head(modules, DTYPES[dtype], where) if modules else classification_head(config, weights)
        return cls(encoder, head, where, max_pair_tokens(checkpoint))

    @torch.inference_mode()
    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        """Raw logits, float32 [n], in the order of `pairs`."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for rows in batches(pairs.lengths, self._max_tokens):
            batch = pack(pairs.take(rows), self._device)
            scores[rows] = self._head(self._encoder(batch, self._head.first_only), batch).cpu().numpy()
        return scores


class Reranker:
    """A scorer with its tokenizer: texts in, scores out. For use without a cluster."""

    def __init__(self, scorer: Scorer, tokenizer: PairTokenizer) -> None:
        self.scorer = scorer
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, dtype: str = "float32", device: str | None = None, max_tokens: int | None = None
    ) -> "Reranker":
        """max_tokens: cut pairs to so many tokens, at most what the checkpoint takes."""
        return cls(Scorer.load(checkpoint, dtype, device), PairTokenizer.load(checkpoint, max_tokens))

    def score(self, query: str, documents: Sequence[str], passages: PassageRule | None = None) -> np.ndarray:
        """Raw logits, float32 [documents]. passages: score documents that are too long by their best passage."""
        return self.tokenizer.score(self.scorer.score, query, documents, passages)
