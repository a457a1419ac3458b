"""Encoders of the PyTorch path, run by the compiled kernels."""

import ctypes
import threading
from typing import TypeGuard

import numpy as np
import torch

from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.checkpoint.weights import LayerNorm
from rankfleet.engine.models.activations import ACTIVATIONS
from rankfleet.engine.models.bert import BertEncoder, Places
from rankfleet.engine.models.modernbert import ModernBertEncoder
from rankfleet.engine.models.qwen2 import Qwen2Encoder
from rankfleet.engine.models.rotary import Rotary
from rankfleet.engine.native.library import Library
from rankfleet.engine.native.structs import (
    COLUMNS,
    BatchStruct,
    LayerStruct,
    ModelStruct,
    NativeWeights,
    WorkspaceStruct,
)

Encoder = BertEncoder | ModernBertEncoder
KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}
QUERIES = 384  # queries of one piece of attention work; longer pairs are shared between threads


def attention_items(lengths: np.ndarray, heads: int) -> np.ndarray:
    """int32 [items, 4]: pair, head, first query, last query + 1; the longest pairs first, so that threads end
    together."""
    pieces = -(-lengths // QUERIES)
    pair = np.repeat(np.arange(len(lengths)), pieces)
    first = (np.arange(len(pair)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * QUERIES
    last = np.minimum(first + QUERIES, lengths[pair])
    order = np.argsort(-lengths[pair], kind="stable")
    items = np.empty((len(order), heads, 4), dtype=np.int32)
    items[:, :, 0], items[:, :, 1] = pair[order, None], np.arange(heads)
    items[:, :, 2], items[:, :, 3] = first[order, None], last[order, None]
    return items.reshape(-1, 4)


def fits(encoder: Encoder | Qwen2Encoder) -> TypeGuard[Encoder]:
    """Whether the kernels can run this encoder: widths in whole tiles, heads of 32 or 64 (64 with rotary positions),
    the exact GELU."""
    if isinstance(encoder, Qwen2Encoder):
        return False
    gated = isinstance(encoder, ModernBertEncoder)
    widths = (64,) if gated else (32, 64)
    return (
        encoder.hidden % COLUMNS == 0
        and encoder.inner % (COLUMNS // 2 if gated else COLUMNS) == 0
        and encoder.hidden // encoder.heads in widths
        and encoder.act is ACTIVATIONS["gelu"]
    )


class NativeEncoder:
    """Gives the hidden states that the encoder it was made from gives.

    dtype: of the matrix products: float32; bfloat16, whose sums, norms and residual stream are float32 all the
    same; or int8 with one scale per output column, and one scale and zero point per token, found as it comes.
    Embeddings are float32 in any case: what is lost there stays in the residual stream to the end.
    """

    def __init__(self, encoder: Encoder, dtype: str, library: Library, max_length: int) -> None:
        """max_length: positions for which rotary tables are made."""
        self._library = library
        self._kind = KINDS[dtype]
        self._weights = NativeWeights(dtype)
        self._heads = encoder.heads
        self.vocabulary = encoder.vocabulary
        self.hidden = encoder.hidden
        self.inner = encoder.inner
        self._half = torch.float32 if dtype == "float32" or "bfloat16" not in library.dtypes else torch.bfloat16
        self._place = Places(None)
        self._lock = threading.Lock()  # one forward pass at a time: they share the workspace
        self._space: tuple[torch.Tensor, ...] = ()
        if isinstance(encoder, BertEncoder):
            self._model = self._bert(encoder)
        else:
            self._model = self._modernbert(encoder, max_length)

    def _modernbert(self, encoder: ModernBertEncoder, max_length: int) -> ModelStruct:
        put = self._weights
        tables = {}
        for kind, theta in encoder.theta.items():
            turn = Rotary.at(torch.arange(max_length), theta, 64)
            tables[kind] = put.keep(torch.cat([turn.cos[:, 0, :32], turn.sin[:, 0, :32]], dim=1))
        layers = [
            LayerStruct(
                put.norm(layer.attention_norm),
                put.norm(layer.mlp_norm),
                put.linear(layer.qkv),
                put.linear(layer.attention_out),
                put.linear(layer.mlp_in, gated=True),
                put.linear(layer.mlp_out),
                encoder.window if layer.kind == "sliding_attention" else -1,
                tables[layer.kind],
            )
            for layer in encoder.layers
        ]
        return self._put(encoder, layers, final_norm=encoder.final_norm, pre_norm=True, places=None, types=None)

    def _bert(self, encoder: BertEncoder) -> ModelStruct:
        put = self._weights
        layers = [
            LayerStruct(
                put.norm(layer.attention_norm),
                put.norm(layer.norm),
                put.linear(layer.qkv),
                put.linear(layer.attention_out),
                put.linear(layer.up),
                put.linear(layer.down),
                -1,
                None,
            )
            for layer in encoder.layers
        ]
        types = encoder.types if len(encoder.types) > 1 else encoder.types.expand(2, -1)
        self._place = encoder.place
        return self._put(encoder, layers, final_norm=None, pre_norm=False, places=encoder.places, types=types)

    def _put(
        self,
        encoder: Encoder,
        layers: list[LayerStruct],
        *,
        final_norm: LayerNorm | None,
        pre_norm: bool,
        places: torch.Tensor | None,
        types: torch.Tensor | None,
    ) -> ModelStruct:
        put = self._weights
        return ModelStruct(
            put.keep(encoder.words),
            put.keep(places),
            put.keep(types),
            put.norm(encoder.embedding_norm),
            put.norm(final_norm),
            (LayerStruct * len(layers))(*layers),
            self.hidden,
            len(layers),
            self.hidden // self._heads,
            pre_norm,
            pre_norm,  # of the two kinds, the one that norms first is the gated one
            encoder.embedding_norm.eps,
        )

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        """Hidden states of the last layer: [tokens, hidden], or [pairs, hidden] of each pair's first token. In float64,
        as the head wants them.

        The kernels check nothing: for a token or position that the model does not have, and for a pair of no tokens,
        they would read what lies beside its tables. `runtime/pair_checks.py` refuses such pairs first.
        """
        tokens, pairs = len(batch.token_ids), len(batch.lengths)
        items = attention_items(batch.host_lengths, self._heads)
        out = torch.empty((pairs if pooled_only else tokens, self.hidden))
        places = self._place(batch)
        with self._lock:
            hidden, qkv, attended = self._workspace(tokens)
            self._library.forward(
                self._kind,
                ctypes.byref(self._model),
                ctypes.byref(
                    BatchStruct(
                        batch.bounds.data_ptr(),
                        batch.token_ids.data_ptr(),
                        batch.positions.data_ptr(),
                        places.data_ptr(),
                        batch.type_ids.data_ptr(),
                        items.ctypes.data,
                        tokens,
                        pairs,
                        len(items),
                    )
                ),
                ctypes.byref(WorkspaceStruct(hidden.data_ptr(), qkv.data_ptr(), attended.data_ptr())),
                int(pooled_only),
                torch.get_num_threads(),
                ctypes.c_void_p(out.data_ptr()),
            )
        return out.double()

    def _workspace(self, tokens: int) -> tuple[torch.Tensor, ...]:
        """Buffers for so many tokens, kept from pass to pass: fresh memory costs a page fault every 4 KiB."""
        if not self._space or len(self._space[0]) < tokens:
            self._space = ()
            self._space = (
                torch.empty((tokens, self.hidden)),
                torch.empty((tokens, 3 * self.hidden), dtype=self._half),
                torch.empty((tokens, self.hidden), dtype=self._half),
            )
        return self._space
