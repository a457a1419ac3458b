"""Element-wise steps of an encoder in Triton, one kernel each: on a GPU they are bound by memory bandwidth.

Arithmetic is float32, rounded where a result is stored. Each has the arguments of the step in PyTorch's operations that
it replaces.
"""

import torch
import triton
import triton.language as tl

TILE = 2048  # elements of one block
MAX_BLOCKS = 65535  # along the second axis of a grid
GATE_COLUMNS = 128  # of a block of `gelu_gate`
ROTATE_TOKENS, ROTATE_HEADS = 2, 8  # of a block of `rotate_in_place`


@triton.jit(do_not_specialize=["rows"])
def add_norm_kernel(
    x,
    y,
    weight,
    bias,
    total,
    normed,
    rows,
    hidden,
    eps,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    exists, inside = row < rows, column < hidden
    mask = exists[:, None] & inside[None, :]
    at = row[:, None].to(tl.int64) * hidden + column[None, :]
    summed = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) + tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
    summed = summed.to(total.dtype.element_ty)
    tl.store(total + at, summed, mask=mask)
    wide = summed.to(tl.float32)
    mean = tl.sum(wide, 1) / hidden
    centred = tl.where(inside[None, :], wide - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / hidden + eps)
    out = centred * scale[:, None] * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        out += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(normed + at, out.to(normed.dtype.element_ty), mask=mask)


def add_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + y, and the layer norm of that sum. x, y: [rows, hidden], contiguous."""
    rows, hidden = x.shape
    width = triton.next_power_of_2(hidden)
    at_once = max(1, TILE // width)
    total, normed = torch.empty_like(x), torch.empty_like(x)
    blocks = triton.cdiv(rows, at_once)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        add_norm_kernel[(blocks,)](
            x, y, weight, bias, total, normed, rows, hidden, eps, BIAS=bias is not None, ROWS=at_once, WIDTH=width
        )
    return total, normed


@triton.jit(do_not_specialize=["rows"])
def gelu_gate_kernel(x, out, rows, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < inner)[None, :]
    at = row[:, None].to(tl.int64) * (2 * inner) + column[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + at + inner, mask=mask, other=0.0).to(tl.float32)
    gelu = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    to = row[:, None].to(tl.int64) * inner + column[None, :]
    tl.store(out + to, (gelu * gate).to(out.dtype.element_ty), mask=mask)


def gelu_gate(x: torch.Tensor) -> torch.Tensor:
    """GELU of the left half of each row, times the right half. x: [rows, 2 * inner], contiguous."""
    rows, inner = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, inner), dtype=x.dtype, device=x.device)
    at_once = TILE // GATE_COLUMNS
    grid = (triton.cdiv(inner, GATE_COLUMNS), triton.cdiv(rows, at_once))
    with torch.cuda.device_of(x):  # Triton launches on the current device
        gelu_gate_kernel[grid](x, out, rows, inner, ROWS=at_once, COLUMNS=GATE_COLUMNS)
    return out


@triton.jit(do_not_specialize=["tokens"])
def rotate_kernel(
    qkv,
    cos,
    sin,
    tokens,
    stride,
    heads,
    HALF: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
):
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    head = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, HALF)
    angle = token[:, None] * (2 * HALF) + column[None, :]
    exists = token < tokens
    c = tl.load(cos + angle, mask=exists[:, None], other=0.0)[:, None, :]
    s = tl.load(sin + angle, mask=exists[:, None], other=0.0)[:, None, :]
    mask = exists[:, None, None] & (head < heads)[None, :, None]
    at = token[:, None, None].to(tl.int64) * stride + head[None, :, None] * (2 * HALF) + column[None, None, :]
    left = tl.load(qkv + at, mask=mask, other=0.0).to(tl.float32)
    right = tl.load(qkv + at + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(qkv + at, (left * c - right * s).to(qkv.dtype.element_ty), mask=mask)
    tl.store(qkv + at + HALF, (right * c + left * s).to(qkv.dtype.element_ty), mask=mask)


def can_rotate(width: int) -> bool:
    """Whether `rotate_in_place` takes heads of this many dimensions."""
    return width % 2 == 0 and triton.next_power_of_2(width) == width


def rotate_in_place(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys, rotated where they are. qkv: [tokens, 3, heads, head dim]; cos, sin: as in `Rotary`."""
    tokens, _, heads, width = qkv.shape
    at_once = max(ROTATE_TOKENS, triton.next_power_of_2(triton.cdiv(tokens, MAX_BLOCKS)))
    grid = (triton.cdiv(2 * heads, ROTATE_HEADS), triton.cdiv(tokens, at_once))
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        rotate_kernel[grid](
            qkv,
            cos,
            sin,
            tokens,
            qkv.stride(0),
            2 * heads,
            HALF=width // 2,
            TOKENS=at_once,
            HEADS=ROTATE_HEADS,
        )
    return qkv[:, 0], qkv[:, 1]
