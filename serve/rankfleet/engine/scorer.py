"""The scorer: one checkpoint on one device, pairs in, raw logits out."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention import Attention
from rankfleet.engine.bert import BertEncoder
from rankfleet.engine.checkpoint import Checkpoint
from rankfleet.engine.cudagraph import LONGEST, Bucket, CudaRecorder, Graphs, Recorder, buckets_to
from rankfleet.engine.heads import Head, head_of
from rankfleet.engine.modernbert import ModernBertEncoder
from rankfleet.engine.packing import PackedBatch, batches, pack
from rankfleet.engine.qwen2 import Qwen2Encoder
from rankfleet.engine.tokenizer import PairTokenizer, max_pair_tokens
from rankfleet.engine.varlen import VarlenAttention, attention_for
from rankfleet.engine.weights import Weights

Encoder = Callable[[PackedBatch, bool], torch.Tensor]
ENCODERS: dict[str, tuple[Callable[..., Encoder], str]] = {
    "bert": (BertEncoder, "bert."),
    "roberta": (BertEncoder, "roberta."),
    "xlm-roberta": (BertEncoder, "roberta."),
    "modernbert": (ModernBertEncoder, "model."),
    "qwen2": (Qwen2Encoder, "model."),
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
        self.graphs: Graphs | None = None

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        dtype: str = "float32",
        device: str | None = None,
        attention: Attention | None = None,
        graphs: bool = True,
    ) -> "Scorer":
        """dtype: float32 or bfloat16. device: a torch device, by default the GPU where there is one. attention: by
        default the best back-end that is installed. graphs: record CUDA graphs, where device and back-end can.

        Raises CheckpointError when the checkpoint is of a kind that is not supported.
        """
        config = checkpoint.config
        if config.model_type not in ENCODERS:
            known = ", ".join(sorted(ENCODERS))
            raise CheckpointError(f"{checkpoint.folder} is a {config.model_type!r} model; supported are {known}")
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        weights = Weights(checkpoint.tensors(), DTYPES[dtype], where)
        build, prefix = ENCODERS[config.model_type]
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = attention or attention_for(where, DTYPES[dtype], width)
        encoder = build(config, weights.under(prefix), attention)
        head = head_of(checkpoint.head(), config, weights, DTYPES[dtype], where)
        scorer = cls(encoder, head, where, max_pair_tokens(checkpoint))
        if where.type == "cuda":
            if isinstance(encoder, ModernBertEncoder):
                encoder.fuse()
            if graphs and isinstance(attention, VarlenAttention):
                scorer.record(CudaRecorder(where), buckets_to(scorer._max_tokens))
        return scorer

    @torch.inference_mode()
    def record(self, recorder: Recorder, buckets: list[Bucket]) -> None:
        """Record forward passes of these sizes, which batches then use. Attention must be by a variable-length
        kernel: runs of equal length have no fixed shape."""
        graphs = Graphs(self.forward, recorder, self._device, buckets, min(LONGEST, self.max_pair))
        graphs.capture()
        self.graphs = graphs

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Raw logits of one batch, float32 [pairs], on the device."""
        return self._head(self._encoder(batch, self._head.first_only), batch)

    @torch.inference_mode()
    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        """Raw logits, float32 [n], in the order of `pairs`."""
        scores = np.empty(len(pairs), dtype=np.float32)
        done = []
        # Nothing waits for the device before all batches are on their way.
        for rows in batches(pairs.lengths, self._max_tokens):
            batch = pairs.take(rows)
            logits = self.graphs.run(batch) if self.graphs else None
            done.append((rows, self.forward(pack(batch, self._device)) if logits is None else logits))
        for rows, logits in done:
            scores[rows] = logits.cpu().numpy()
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

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Raw logits, float32 [documents]."""
        query_ids, *document_ids = self.tokenizer.encode([query, *documents])
        pairs, _ = self.tokenizer.pair(query_ids, document_ids)
        return self.scorer.score(pairs)
