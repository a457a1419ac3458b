"""Attention over a packed batch by one variable-length kernel call, for CUDA.

In order of preference: the flash-attn package, PyTorch's own `torch.nn.attention.varlen`, and, where neither will
do, SDPA on runs (`RunAttention`).
"""

import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from rankfleet.engine.attention.packed import Attention, RunAttention
from rankfleet.engine.attention.packing import PackedBatch

log = logging.getLogger(__name__)

FLASH_ATTN, TORCH_VARLEN, SDPA = "flash-attn", "torch-varlen", "sdpa"
HALF = (torch.bfloat16, torch.float16)
WIDEST_HEAD = 256  # of both kernels
OLDEST_GPU = (8, 0)  # Ampere; FlashAttention 2 has no kernels for older ones
EVERYWHERE = (-1, -1)


def varlen_backend(device: torch.device, dtype: torch.dtype, installed: Collection[str], width: int = 64) -> str:
    """The name of the best back-end for this device and precision among those `installed` (FLASH_ATTN,
    TORCH_VARLEN; SDPA is always there). width: of a head."""
    if device.type != "cuda" or dtype not in HALF or width > WIDEST_HEAD:
        return SDPA
    if FLASH_ATTN in installed:
        return FLASH_ATTN
    # The package pads heads to a multiple of 8 by itself, PyTorch's function refuses others.
    if TORCH_VARLEN in installed and width % 8 == 0:
        return TORCH_VARLEN
    return SDPA


class Kernel(Protocol):
    """Attention of packed queries to packed keys, sequence by sequence.

    query: [queries, heads, head dim]; key, value: [keys, key heads, head dim]; bounds: int32 [sequences + 1];
    longest: tokens of the longest sequence, or more; window: tokens seen to the left and to the right, -1 for all,
    counted from the diagonal that ends in the lower right corner. Returns [queries, heads, head dim].
    """

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_bounds: torch.Tensor,
        key_bounds: torch.Tensor,
        longest_query: int,
        longest_key: int,
        window: tuple[int, int],
    ) -> torch.Tensor: ...


def flash_attn_kernel(function: Callable[..., Any]) -> Kernel:
    """`flash_attn.flash_attn_varlen_func` (2.8) as a kernel."""

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_bounds: torch.Tensor,
        key_bounds: torch.Tensor,
        longest_query: int,
        longest_key: int,
        window: tuple[int, int],
    ) -> torch.Tensor:
        causal = window == (-1, 0)
        out: torch.Tensor = function(
            query,
            key,
            value,
            cu_seqlens_q=query_bounds,
            cu_seqlens_k=key_bounds,
            max_seqlen_q=longest_query,
            max_seqlen_k=longest_key,
            causal=causal,
            window_size=EVERYWHERE if causal else window,
        )
        return out

    return kernel


def torch_varlen_kernel(function: Callable[..., Any]) -> Kernel:
    """`torch.nn.attention.varlen.varlen_attn` (PyTorch 2.11 on) as a kernel."""
    groups = "enable_gqa" in inspect.signature(function).parameters  # PyTorch 2.12 on

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_bounds: torch.Tensor,
        key_bounds: torch.Tensor,
        longest_query: int,
        longest_key: int,
        window: tuple[int, int],
    ) -> torch.Tensor:
        options: dict[str, Any] = {}
        share = query.shape[1] // key.shape[1]
        if share > 1 and groups:
            options["enable_gqa"] = True
        elif share > 1:
            key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        out: torch.Tensor = function(
            query, key, value, query_bounds, key_bounds, longest_query, longest_key, window_size=window, **options
        )
        return out

    return kernel


class VarlenAttention:
    """One kernel call for all pairs of a batch, whatever their lengths; shapes depend on nothing but the number of
    tokens and pairs, so that calls can be captured in a CUDA graph."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def every_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        span = (-1, 0) if causal else EVERYWHERE if window is None else (window, window)
        longest = batch.max_length
        out = self._kernel(query, key, value, batch.bounds, batch.bounds, longest, longest, span)
        return out.flatten(1)

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        if window is not None:
            return first_of_window(query, key, value, batch, window)
        one_each = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        out = self._kernel(query, key, value, one_each, batch.bounds, 1, batch.max_length, EVERYWHERE)
        return out.flatten(1)


def first_of_window(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch, window: int
) -> torch.Tensor:
    """`one_token` with a window. The kernels count a window from the last key and would look at the wrong end of
    the pair; so few keys are gathered instead, into [pairs, window + 1]. A pair's first token always sees itself,
    so that no row is masked as a whole; those of empty pairs hold what nobody reads."""
    ahead = torch.arange(window + 1, device=query.device)
    seen = (ahead < batch.lengths[:, None]) | (ahead == 0)
    rows = (batch.firsts[:, None] + ahead).clamp(max=len(key) - 1)
    k, v = key[rows].transpose(1, 2), value[rows].transpose(1, 2)
    shared = query.shape[1] != key.shape[1]
    scored = scaled_dot_product_attention(query[:, :, None], k, v, attn_mask=seen[:, None, None], enable_gqa=shared)
    return scored.squeeze(2).flatten(1)


def _flash_attn() -> Callable[..., Any]:
    function: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_varlen_func
    return function


def _torch_varlen() -> Callable[..., Any]:
    """Raises ImportError where PyTorch has no such function, or one without windows."""
    function: Callable[..., Any] = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    if "window_size" not in inspect.signature(function).parameters:
        raise ImportError("varlen_attn of this PyTorch has no window_size; 2.11 has")
    if not torch.backends.cuda.is_flash_attention_available():
        raise ImportError("this PyTorch is built without FlashAttention")
    return function


LOADERS: dict[str, Callable[[], Callable[..., Any]]] = {FLASH_ATTN: _flash_attn, TORCH_VARLEN: _torch_varlen}


def installed_backends(
    capability: tuple[int, int], loaders: Mapping[str, Callable[[], Callable[..., Any]]] = LOADERS
) -> list[str]:
    """The variable-length kernels that can be loaded for a GPU of this compute capability, by name."""
    if capability < OLDEST_GPU:
        return []
    found = []
    for name, load in loaders.items():
        try:
            load()
            found.append(name)
        except Exception as error:  # a package built for another PyTorch raises what it likes
            log.info("attention back-end %s is not there: %s", name, error)
    return found


def use_hopper_kernels(device: torch.device) -> bool:
    """Let `torch.nn.attention.varlen` run FlashAttention 3 where the GPU is a Hopper and the kernels are installed
    (the module `flash_attn_interface`). Holds for the whole process."""
    attention: Any = importlib.import_module("torch.nn.attention")
    known: list[str] = getattr(attention, "list_flash_attention_impls", lambda: [])()
    if torch.cuda.get_device_capability(device)[0] != 9 or "FA3" not in known:
        return False
    if attention.current_flash_attention_impl() == "FA3":
        return True
    if importlib.util.find_spec("flash_attn_interface") is None:
        return False
    try:
        attention.activate_flash_attention_impl("FA3")
    except Exception as error:  # an optional speed-up: any failure leaves the kernels that PyTorch ships
        log.warning("FlashAttention 3 is installed but cannot be used: %s", error)
        return False
    return True


def attention_for(device: torch.device, dtype: torch.dtype, width: int) -> Attention:
    """The best attention for this device and precision; width: of a head."""
    cuda = device.type == "cuda"
    installed = installed_backends(torch.cuda.get_device_capability(device)) if cuda else []
    return named_attention(varlen_backend(device, dtype, installed, width), device)


def named_attention(name: str, device: torch.device) -> Attention:
    """The back-end of this name. Raises KeyError for a name it does not know, ImportError where it is not
    installed."""
    if name == SDPA:
        return RunAttention()
    function = LOADERS[name]()
    if name == FLASH_ATTN:
        return VarlenAttention(flash_attn_kernel(function))
    use_hopper_kernels(device)
    return VarlenAttention(torch_varlen_kernel(function))
