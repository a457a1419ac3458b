"""An encoder run by the compiled kernels: a whole forward pass in one call."""

import ctypes
import threading

import numpy as np
import torch

from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.native.layout import E, NativeLayout
from rankfleet.engine.native.library import Library
from rankfleet.engine.native.structs import BatchStruct, NativeWeights, WorkspaceStruct

ITEM_QUERIES = 384  # queries of one attention work item; longer pairs are shared between threads
SPARE_ROWS = 15  # of q, k and v after the last token: AMX multiplies queries by sixteen (attention.hpp)


def attention_items(lengths: np.ndarray, heads: int) -> np.ndarray:
    """int32 [items, 4]: pair, head, first query, last query + 1 of each work item.

    The longest pairs come first, so that threads end at about the same time.
    """
    pieces = -(-lengths // ITEM_QUERIES)
    pair = np.repeat(np.arange(len(lengths)), pieces)
    first = (np.arange(len(pair)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * ITEM_QUERIES
    last = np.minimum(first + ITEM_QUERIES, lengths[pair])
    order = np.argsort(-lengths[pair], kind="stable")
    items = np.empty((len(order), heads, 4), dtype=np.int32)
    items[:, :, 0], items[:, :, 1] = pair[order, None], np.arange(heads)
    items[:, :, 2], items[:, :, 3] = first[order, None], last[order, None]
    return items.reshape(-1, 4)


class NativeEncoder:
    """Computes the hidden states of the PyTorch encoder that it was made from.

    `dtype`: of the matrix products.

    - float32;
    - bfloat16: sums, norms and the residual stream stay float32;
    - int8: one scale per output column of a weight, one scale and zero point per token, computed from its values.

    Embeddings are always float32: an error there would stay in the residual stream to the end.
    """

    def __init__(self, encoder: E, layout: NativeLayout[E], dtype: str, library: Library, max_length: int) -> None:
        """`encoder`: float32, on the CPU, and one that fits the layout. `max_length`: tokens of the longest pair."""
        self._forward = library.forward[dtype]
        self._weights = NativeWeights(dtype)
        self._model = layout.build(encoder, self._weights, max_length)
        self._heads = encoder.heads
        self.vocabulary = encoder.vocabulary
        self.hidden = encoder.hidden
        self.inner = encoder.inner
        half = dtype != "float32" and "bfloat16" in library.dtypes
        self._attention_dtype = torch.bfloat16 if half else torch.float32
        self._lock = threading.Lock()  # one forward pass at a time: all use the same workspace
        self._workspace_buffers: tuple[torch.Tensor, ...] = ()

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        """Hidden states after the last layer in float64, as the head computes: [tokens, hidden], or [pairs, hidden] of
        each pair's first token.

        The kernels do not check indices: for a token or position that the model does not have, and for a pair of no
        tokens, they would read past the ends of their tables. `runtime/pair_checks.py` refuses such pairs first.
        """
        tokens, pairs = len(batch.token_ids), len(batch.lengths)
        items = attention_items(batch.host_lengths, self._heads)
        out = torch.empty((pairs if pooled_only else tokens, self.hidden))
        position_ids = self._model.position_ids(batch)
        with self._lock:
            hidden, qkv, attended = self._workspace(tokens)
            self._forward(
                ctypes.byref(self._model.struct),
                ctypes.byref(
                    BatchStruct(
                        bounds=batch.bounds.data_ptr(),
                        token_ids=batch.token_ids.data_ptr(),
                        positions=batch.positions.data_ptr(),
                        position_ids=position_ids.data_ptr(),
                        type_ids=batch.type_ids.data_ptr(),
                        items=items.ctypes.data,
                        tokens=tokens,
                        pairs=pairs,
                        item_count=len(items),
                    )
                ),
                ctypes.byref(WorkspaceStruct(hidden.data_ptr(), qkv.data_ptr(), attended.data_ptr())),
                int(pooled_only),
                torch.get_num_threads(),
                ctypes.c_void_p(out.data_ptr()),
            )
        return out.double()

    def _workspace(self, tokens: int) -> tuple[torch.Tensor, ...]:
        """Buffers of at least `tokens` rows, kept between passes: fresh memory costs a page fault every 4 KiB."""
        if not self._workspace_buffers or len(self._workspace_buffers[0]) < tokens:
            self._workspace_buffers = ()  # free the old ones before the new ones are allocated
            self._workspace_buffers = (
                torch.empty((tokens, self.hidden)),
                torch.empty((tokens + SPARE_ROWS, 3 * self.hidden), dtype=self._attention_dtype),
                torch.empty((tokens, self.hidden), dtype=self._attention_dtype),
            )
        return self._workspace_buffers
