"""Attention over a packed batch in one call, for CUDA, and the choice among its back-ends.

In order of preference: this project's own kernels in Triton (`attention/packed.py`); PyTorch's
`torch.nn.attention.varlen` where Triton does not work; the flash-attn package (the extra `gpu`) where that cannot be
used; and SDPA on runs (`attention/sdpa.py`) where none can.
"""

import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.attention.sdpa import RunAttention

log = logging.getLogger(__name__)

TRITON, TORCH_VARLEN, FLASH_ATTN, SDPA = "triton", "torch-varlen", "flash-attn", "sdpa"
HALF = (torch.bfloat16, torch.float16)
MAX_HEAD_WIDTH = 256  # of all kernels
TRITON_WIDTHS = (16, 32, 64, 128, 256)  # of a head: powers of two
MIN_CAPABILITY = (8, 0)  # Ampere, the first with bfloat16; FlashAttention 2 has no kernels for older GPUs
NO_WINDOW = (-1, -1)


def varlen_backend(device: torch.device, dtype: torch.dtype, installed: Collection[str], width: int = 64) -> str:
    """The name of the best back-end for this device and precision.

    `installed`: any of TRITON, TORCH_VARLEN and FLASH_ATTN; SDPA is always available. `width`: of a head.
    """
    if device.type != "cuda" or dtype not in HALF or width > MAX_HEAD_WIDTH:
        return SDPA
    if TRITON in installed:
        return TRITON
    # PyTorch's function refuses widths that are no multiple of 8; the package pads them.
    if TORCH_VARLEN in installed and width % 8 == 0:
        return TORCH_VARLEN
    return FLASH_ATTN if FLASH_ATTN in installed else SDPA


class Kernel(Protocol):
    """Attention of packed queries to packed keys within each sequence, [queries, heads, head dim].

    `query`: [queries, heads, head dim]. `key`, `value`: [keys, key heads, head dim].
    `query_bounds`, `key_bounds`: int32 [sequences + 1], where each sequence begins and the last one ends.
    `longest_query`, `longest_key`: tokens of the longest sequence, or more.
    `window`: tokens attended to on the left and on the right, -1 for all, counted from the diagonal that ends in the
        lower right corner.
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
            window_size=NO_WINDOW if causal else window,
        )
        return out

    return kernel


def torch_varlen_kernel(function: Callable[..., Any]) -> Kernel:
    """`torch.nn.attention.varlen.varlen_attn` (from PyTorch 2.11 on) as a kernel."""
    takes_groups = "enable_gqa" in inspect.signature(function).parameters  # from PyTorch 2.12 on

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
        if share > 1 and takes_groups:
            options["enable_gqa"] = True
        elif share > 1:
            key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        out: torch.Tensor = function(
            query, key, value, query_bounds, key_bounds, longest_query, longest_key, window_size=window, **options
        )
        return out

    return kernel


class VarlenAttention:
    """One kernel call for all pairs of a batch, whatever their lengths. See `Attention`."""

    fixed_shapes = True

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
        span = (-1, 0) if causal else NO_WINDOW if window is None else (window, window)
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
        out = self._kernel(query, key, value, one_each, batch.bounds, 1, batch.max_length, NO_WINDOW)
        return out.flatten(1)


def first_of_window(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch, window: int
) -> torch.Tensor:
    """`one_token` with a window, by SDPA on the first keys of each pair, gathered into [pairs, window + 1].

    The kernels count a window from the last key, and so would attend to the wrong end of the pair. A pair's first token
    always attends to itself, so that no row is masked entirely. Rows of empty pairs are not read.
    """
    offsets = torch.arange(window + 1, device=query.device)
    mask = (offsets < batch.lengths[:, None]) | (offsets == 0)
    rows = (batch.firsts[:, None] + offsets).clamp(max=len(key) - 1)
    k, v = key[rows].transpose(1, 2), value[rows].transpose(1, 2)
    shared = query.shape[1] != key.shape[1]
    scored = scaled_dot_product_attention(query[:, :, None], k, v, attn_mask=mask[:, None, None], enable_gqa=shared)
    return scored.squeeze(2).flatten(1)


def _flash_attn() -> Callable[..., Any]:
    function: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_varlen_func
    return function


def _torch_varlen() -> Callable[..., Any]:
    """Raises ImportError if PyTorch has no such function, or only one without windows."""
    function: Callable[..., Any] = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    if "window_size" not in inspect.signature(function).parameters:
        raise ImportError("varlen_attn of this PyTorch has no window_size; 2.11 has")
    if not torch.backends.cuda.is_flash_attention_available():
        raise ImportError("this PyTorch is built without FlashAttention")
    return function


LOADERS: dict[str, Callable[[], Callable[..., Any]]] = {TORCH_VARLEN: _torch_varlen, FLASH_ATTN: _flash_attn}
PACKED = "rankfleet.engine.attention.packed"  # imported by name: it needs Triton


@cache
def triton_works(device: torch.device, width: int) -> bool:
    """Whether this project's Triton kernels run on this GPU for heads of this width. Where they do not, a warning says
    why, once."""
    if width not in TRITON_WIDTHS or torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return False
    try:
        importlib.import_module(PACKED).check(device, width)
    except Exception as error:  # compilers may raise anything
        log.warning(
            "kernels of PyTorch take the place of faster ones, which need Triton, a C compiler and the headers of "
            "Python (%s: %s)",
            type(error).__name__,
            str(error).strip().partition("\n")[0],
        )
        return False
    return True


def installed_backends(
    capability: tuple[int, int], loaders: Mapping[str, Callable[[], Callable[..., Any]]] = LOADERS
) -> list[str]:
    """Names of the libraries' kernels that can be loaded for a GPU of this compute capability."""
    if capability < MIN_CAPABILITY:
        return []
    found = []
    for name, load in loaders.items():
        try:
            load()
            found.append(name)
        except Exception as error:  # a package built for another PyTorch may raise anything
            log.info("attention back-end %s is not available: %s", name, error)
    return found


def use_hopper_kernels(device: torch.device) -> bool:
    """Whether `torch.nn.attention.varlen` now runs FlashAttention 3: on a Hopper GPU, if its kernels (the module
    `flash_attn_interface`) are installed. Changes the whole process."""
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
    """The best back-end for this device and precision. `width`: of a head."""
    return named_attention(varlen_backend(device, dtype, working_backends(device, width), width), device)


def working_backends(device: torch.device, width: int) -> list[str]:
    """Names of all kernels that run on this device for heads of this width, best first; none on a CPU."""
    if device.type != "cuda":
        return []
    own = [TRITON] if triton_works(device, width) else []
    return own + installed_backends(torch.cuda.get_device_capability(device))


def named_attention(name: str, device: torch.device) -> Attention:
    """The back-end of this name. Raises KeyError for an unknown name, ImportError if it is not installed."""
    if name == SDPA:
        return RunAttention()
    if name == TRITON:
        own: Attention = importlib.import_module(PACKED).PackedAttention()
        return own
    function = LOADERS[name]()
    if name == FLASH_ATTN:
        return VarlenAttention(flash_attn_kernel(function))
    use_hopper_kernels(device)
    return VarlenAttention(torch_varlen_kernel(function))
