"""The scorer: one checkpoint on one device, pairs in, raw logits out."""

from collections.abc import Sequence

import numpy as np
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PassageRule
from rankfleet.engine.attention.packed import Attention
from rankfleet.engine.attention.packing import PackedBatch, batches, pack
from rankfleet.engine.attention.varlen import VarlenAttention
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.models.heads import Head, head_of
from rankfleet.engine.models.modernbert import ModernBertEncoder
from rankfleet.engine.runtime.cudagraph import LONGEST, Bucket, CudaRecorder, Graphs, Recorder, buckets_to
from rankfleet.engine.runtime.encoders import Encoder, TorchEncoder, compiled_encoder, torch_encoder
from rankfleet.engine.runtime.loadable import check_checkpoint
from rankfleet.engine.runtime.pair_checks import check_pairs, probe
from rankfleet.engine.runtime.pass_budget import DTYPE_BYTES, pass_budget
from rankfleet.engine.runtime.precision import TORCH_DTYPES, choose_dtype
from rankfleet.engine.text.tokenizer import PairTokenizer, max_pair_tokens


class Scorer:
    """Scores equal those of `sentence_transformers.CrossEncoder` on the same checkpoint, without activation, up to
    the precision asked for."""

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        device: torch.device,
        dtype: str,
        max_pair: int,
    ) -> None:
        """dtype: of the matrix products. max_pair: tokens of the longest pair the encoder takes."""
        self._encoder = encoder
        self._head = head
        self._device = device
        self.budget = pass_budget(encoder.hidden, encoder.inner, max_pair, DTYPE_BYTES[dtype], device)
        self.dtype = dtype
        self.max_pair = max_pair
        self.graphs: Graphs | None = None

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        dtype: str = "auto",
        device: str | None = None,
        compiled: bool = True,
        attention: Attention | None = None,
        graphs: bool = True,
    ) -> "Scorer":
        """dtype: float32, bfloat16, int8 (CPU only), or auto. device: a torch device, by default the GPU where there
        is one. compiled: use the compiled kernels where they can be had. attention: compute in PyTorch's operations
        with this back-end. graphs: record CUDA graphs, where device and back-end can.

        Raises CheckpointError for what `check_checkpoint` refuses, and when the dtype cannot be computed here, or
        weights or the scores of a first pair are not finite.
        """
        check_checkpoint(checkpoint, dtype)
        config = checkpoint.config
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = choose_dtype(dtype, where)
        max_pair = max_pair_tokens(checkpoint)
        weights = checkpoint.weights()
        encoder: Encoder | None = None
        if compiled and attention is None and where.type == "cpu":
            encoder = compiled_encoder(config, weights, dtype, max_pair)
        if encoder is None and dtype == "int8":
            raise CheckpointError(f"{checkpoint.folder}: int8 is computed by the compiled kernels alone, on a CPU")
        # Behind the kernels the head is float64: a pair's score is then the same whatever its neighbours.
        weights = weights.to(TORCH_DTYPES[dtype] if encoder is None else torch.float64, where)
        if encoder is None:
            encoder = torch_encoder(config, weights, attention)
        head = head_of(checkpoint.head(), config, weights)
        scorer = cls(encoder, head, where, dtype, max_pair)
        # An attention of the caller's may have to be told of a batch beforehand.
        if attention is None and not np.isfinite(scorer.score(probe(encoder.vocabulary, max_pair))).all():
            raise CheckpointError(
                f"{checkpoint.folder} computes scores that are not finite (NaN or infinity) from finite weights, in "
                f"{dtype}: the file is damaged or was saved after training diverged"
            )
        if where.type == "cuda":
            scorer.prepare(graphs)
        return scorer

    def prepare(self, graphs: bool) -> None:
        """On CUDA, before the first batch: compile element-wise steps and record graphs."""
        if isinstance(self._encoder, ModernBertEncoder):
            self._encoder.fuse()
        varlen = isinstance(self._encoder, TorchEncoder) and isinstance(self._encoder.attention, VarlenAttention)
        if graphs and varlen:
            self.record(CudaRecorder(self._device), buckets_to(self.budget.tokens))

    @torch.inference_mode()
    def record(self, recorder: Recorder, buckets: list[Bucket]) -> None:
        """Record forward passes of these sizes, which batches then use. Attention must be by a variable-length
        kernel: runs of equal length have no fixed shape."""
        graphs = Graphs(self.forward, recorder, self._device, buckets, min(LONGEST, self.max_pair))
        graphs.capture()
        self.graphs = graphs

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Raw logits of one batch, float32 [pairs], on the device."""
        return self._head(self._encoder(batch, self._head.pooled_only), batch)

    @torch.inference_mode()
    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        """Raw logits, float32 [n], in the order of `pairs`. Raises InvalidPairs for what this model does not take."""
        check_pairs(pairs, self._encoder.vocabulary, self.max_pair)
        scores = np.empty(len(pairs), dtype=np.float32)
        done = []
        # Nothing waits for the device before all batches are on their way.
        for rows in batches(pairs.lengths, self.budget.tokens):
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
        cls, checkpoint: Checkpoint, dtype: str = "auto", device: str | None = None, max_tokens: int | None = None
    ) -> "Reranker":
        """max_tokens: cut pairs to so many tokens, at most what the checkpoint takes. The rest: see Scorer.load."""
        return cls(Scorer.load(checkpoint, dtype, device), PairTokenizer.load(checkpoint, max_tokens))

    def score(self, query: str, documents: Sequence[str], passages: PassageRule | None = None) -> np.ndarray:
        """Raw logits, float32 [documents]. passages: score documents that are too long by their best passage."""
        return self.tokenizer.score(self.scorer.score, query, documents, passages)
