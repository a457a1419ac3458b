"""The scorer: one checkpoint on one device, from pairs to raw logits."""

import logging
from collections.abc import Sequence
from copy import copy

import numpy as np
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PassageRule
from rankfleet.engine.attention.packing import PackedBatch, batches, pack
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.attention.varlen import triton_works
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.models.heads import Head
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.native.encoder import NativeEncoder
from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
from rankfleet.engine.runtime.cudagraph import MAX_PAIR, Bucket, CudaRecorder, Graphs, Recorder, buckets_to
from rankfleet.engine.runtime.loading import (
    build_encoder,
    build_head,
    build_native_encoder,
    load_tokenizer,
    max_pair_tokens,
)
from rankfleet.engine.runtime.pair_checks import check_pairs, probe_pair
from rankfleet.engine.runtime.pass_budget import DTYPE_BYTES, pass_budget
from rankfleet.engine.runtime.precision import TORCH_DTYPES, choose_precision
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.precision import CHOSEN, Precision

log = logging.getLogger(__name__)


class Scorer:
    """Gives the scores of `sentence_transformers.CrossEncoder` on the same checkpoint, without activation, up to the
    precision asked for."""

    def __init__(
        self,
        encoder: TorchEncoder | NativeEncoder,
        head: Head,
        device: torch.device,
        dtype: str,
        max_pair: int,
    ) -> None:
        """`dtype`: of the matrix products. `max_pair`: tokens of the longest pair that the encoder takes."""
        self._encoder = encoder
        self._head = head
        self._device = device
        self.budget = pass_budget(encoder.hidden, encoder.inner, max_pair, DTYPE_BYTES[dtype], device)
        self.dtype = dtype
        self.max_pair = max_pair
        self.graphs: Graphs | None = None

    @classmethod
    def choose(
        cls, checkpoint: Checkpoint, dtype: str = "auto", device: str | None = None, compiled: bool = True
    ) -> Precision:
        """The precision that `load` computes in with these arguments. Raises what `choose_precision` raises."""
        return choose_precision(
            dtype, checkpoint, device_of(device), compiled, lambda named: cls.load(checkpoint, named, device, compiled)
        )

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
        """A scorer for this checkpoint.

        `dtype`: float32, bfloat16, int8 (CPU only), or one of CHOSEN, which `choose` resolves.
        `device`: a torch device; by default the GPU if there is one.
        `compiled`: use this project's kernels where they run; on a GPU, for element-wise steps.
        `attention`: compute in PyTorch's operations, with this back-end for attention.
        `graphs`: record CUDA graphs where device and back-end allow it.

        Raises CheckpointError for whatever `check_checkpoint` refuses, for a dtype that cannot be computed here, and
        for weights or scores of a first pair that are not finite.
        """
        on_device = device_of(device)
        if attention is not None and on_device.type == "cpu" and dtype in CHOSEN:
            dtype = "float32"  # the back-end may not be ready to be measured
        dtype = cls.choose(checkpoint, dtype, device, compiled).dtype
        check_checkpoint(checkpoint, dtype)
        config = checkpoint.config
        max_pair = max_pair_tokens(checkpoint)
        weights = checkpoint.weights()
        encoder: TorchEncoder | NativeEncoder | None = None
        if compiled and attention is None and on_device.type == "cpu":
            encoder = build_native_encoder(config, weights, dtype, max_pair)
        if encoder is None and dtype == "int8":
            raise CheckpointError(f"{checkpoint.folder}: int8 is computed only by the compiled kernels, on a CPU")
        # After the kernels the head computes in float64: then a pair's score does not depend on its neighbours.
        weights = weights.to(TORCH_DTYPES[dtype] if encoder is None else torch.float64, on_device)
        if encoder is None:
            encoder = build_encoder(config, weights, attention)
        head = build_head(checkpoint.head(), config, weights)
        scorer = cls(encoder, head, on_device, dtype, max_pair)
        # The caller's own attention back-end may not be ready for a batch yet.
        if attention is None and not np.isfinite(scorer.score(probe_pair(encoder.vocabulary, max_pair))).all():
            raise CheckpointError(
                f"{checkpoint.folder} computes scores that are not finite (NaN or infinity) from finite weights, in "
                f"{dtype}: the file is damaged or was saved after training diverged"
            )
        if on_device.type == "cuda" and isinstance(encoder, TorchEncoder):
            if compiled and triton_works(on_device, encoder.hidden // encoder.heads):
                scorer.fuse(tried=attention is None)
            if graphs and encoder.attention.fixed_shapes:
                scorer.record(CudaRecorder(on_device), buckets_to(scorer.budget.tokens))
        return scorer

    def fuse(self, tried: bool = True) -> None:
        """Take fused element-wise steps. tried: score a pair with them, and go back to the plain ones if that fails."""
        if not isinstance(self._encoder, TorchEncoder):
            return
        plain, self._encoder = self._encoder, copy(self._encoder)
        self._encoder.fuse()
        try:
            if tried:
                self.score(probe_pair(plain.vocabulary, self.max_pair))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers may raise anything; a real fault recurs in the plain steps
            log.warning("element-wise steps are not fused: %s", str(error).strip().partition("\n")[0])
            self._encoder = plain

    @torch.inference_mode()
    def record(self, recorder: Recorder, buckets: list[Bucket]) -> None:
        """Record forward passes of these sizes, which batches then replay. Attention must have fixed shapes."""
        graphs = Graphs(self.forward, recorder, self._device, buckets, min(MAX_PAIR, self.max_pair))
        graphs.capture()
        self.graphs = graphs

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Raw logits of one batch, float32 [pairs], on the device."""
        return self._head(self._encoder(batch, self._head.pooled_only), batch)

    @torch.inference_mode()
    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        """Raw logits, float32 [n], in the order of `pairs`. Raises InvalidPairs for pairs that the model cannot
        score."""
        check_pairs(pairs, self._encoder.vocabulary, self.max_pair)
        scores = np.empty(len(pairs), dtype=np.float32)
        launched = []
        # All batches are launched before the first result is waited for.
        for rows in batches(pairs.lengths, self.budget.tokens):
            batch = pairs.take(rows)
            logits = self.graphs.run(batch) if self.graphs else None
            launched.append((rows, self.forward(pack(batch, self._device)) if logits is None else logits))
        for rows, logits in launched:
            scores[rows] = logits.cpu().numpy()
        return scores


def device_of(device: str | None) -> torch.device:
    """A torch device by its name; by default the GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


class Reranker:
    """A scorer with its tokenizer, from texts to scores. For use without a cluster."""

    def __init__(self, scorer: Scorer, tokenizer: PairTokenizer) -> None:
        self.scorer = scorer
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, dtype: str = "auto", device: str | None = None, max_tokens: int | None = None
    ) -> "Reranker":
        """`max_tokens`: cut pairs to this length, at most what the checkpoint takes. Others: see `Scorer.load`."""
        return cls(Scorer.load(checkpoint, dtype, device), load_tokenizer(checkpoint, max_tokens))

    def score(self, query: str, documents: Sequence[str], passages: PassageRule | None = None) -> np.ndarray:
        """Raw logits, float32 [documents]. `passages`: score documents that are too long by their best passage."""
        return self.tokenizer.score(self.scorer.score, query, documents, passages)
