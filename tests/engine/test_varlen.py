"""The choice of attention back-end, and the arguments of each: stand-ins compute what the kernels promise."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention import varlen
from rankfleet.engine.attention.packing import Run, pack
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.attention.sdpa import RunAttention
from rankfleet.engine.attention.varlen import VarlenAttention, flash_attn_kernel, torch_varlen_kernel, varlen_backend
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.measure import synthetic_pairs
from rankfleet.engine.runtime.scorer import Scorer
from tests.engine import checkpoints
from tests.engine.kernels import fake_flash_attn_varlen_func, fake_varlen_attn, fake_varlen_attn_without_groups

CPU = torch.device("cpu")
BOTH = ("flash-attn", "torch-varlen")
ALL = ("triton", *BOTH)
STAND_INS = {
    "flash-attn": VarlenAttention(flash_attn_kernel(fake_flash_attn_varlen_func)),
    "torch-varlen": VarlenAttention(torch_varlen_kernel(fake_varlen_attn)),
    "torch-varlen 2.11": VarlenAttention(torch_varlen_kernel(fake_varlen_attn_without_groups)),
}


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "width", "chosen"),
    [
        ("cuda", torch.bfloat16, ALL, 64, "triton"),
        ("cuda", torch.float32, ALL, 64, "sdpa"),
        ("cpu", torch.bfloat16, ALL, 64, "sdpa"),
        ("cuda", torch.bfloat16, BOTH, 64, "torch-varlen"),
        ("cuda", torch.float16, BOTH, 64, "torch-varlen"),
        ("cuda", torch.bfloat16, ("flash-attn",), 64, "flash-attn"),
        ("cuda", torch.bfloat16, ("torch-varlen",), 64, "torch-varlen"),
        ("cuda", torch.bfloat16, (), 64, "sdpa"),
        ("cuda", torch.float32, BOTH, 64, "sdpa"),  # the kernels compute in half precision only
        ("cuda", torch.bfloat16, BOTH, 26, "flash-attn"),  # pads odd widths by itself
        ("cuda", torch.bfloat16, ("torch-varlen",), 26, "sdpa"),
        ("cuda", torch.bfloat16, BOTH, 288, "sdpa"),
        ("cpu", torch.bfloat16, BOTH, 64, "sdpa"),
    ],
)
def test_the_best_backend_is_chosen(
    device: str, dtype: torch.dtype, installed: tuple[str, ...], width: int, chosen: str
) -> None:
    assert varlen_backend(torch.device(device), dtype, installed, width) == chosen


def broken() -> Callable[..., torch.Tensor]:
    raise OSError("undefined symbol")


def loads() -> Callable[..., torch.Tensor]:
    return fake_varlen_attn


@pytest.mark.parametrize(
    ("capability", "loaders", "found"),
    [
        ((9, 0), {"flash-attn": loads, "torch-varlen": loads}, ["flash-attn", "torch-varlen"]),
        ((9, 0), {"flash-attn": broken, "torch-varlen": loads}, ["torch-varlen"]),
        ((8, 6), {"flash-attn": loads, "torch-varlen": broken}, ["flash-attn"]),
        ((7, 5), {"flash-attn": loads, "torch-varlen": loads}, []),  # older than the kernels
    ],
)
def test_backends_that_load_on_this_gpu_are_installed(
    capability: tuple[int, int], loaders: dict[str, Callable[..., Any]], found: list[str]
) -> None:
    assert varlen.installed_backends(capability, loaders) == found


@pytest.mark.parametrize(
    ("capability", "width", "error", "works"),
    [
        ((9, 0), 64, None, True),
        ((9, 0), 80, None, False),  # not a power of two
        ((7, 5), 64, None, False),  # older than bfloat16
        ((9, 0), 64, RuntimeError("Failed to find C compiler.\nmore"), False),
    ],
)
def test_triton_is_used_where_its_kernels_run(
    capability: tuple[int, int],
    width: int,
    error: Exception | None,
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check(*_: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(varlen.importlib, "import_module", lambda _: SimpleNamespace(check=check))
    assert varlen.triton_works.__wrapped__(torch.device("cuda"), width) == works
    assert ("Failed to find C compiler" in caplog.text) == (error is not None)


def test_a_cpu_gets_sdpa() -> None:
    assert isinstance(varlen.attention_for(CPU, torch.bfloat16, 64), RunAttention)


def test_the_stand_in_takes_what_this_pytorch_takes() -> None:
    from torch.nn.attention.varlen import varlen_attn

    real = inspect.signature(varlen_attn).parameters
    stand_in = fake_varlen_attn if "enable_gqa" in real else fake_varlen_attn_without_groups
    for name, parameter in inspect.signature(stand_in).parameters.items():
        assert real[name].kind == parameter.kind
        assert real[name].default == parameter.default
    assert list(real)[:7] == list(inspect.signature(stand_in).parameters)[:7]


def packed_qkv(lengths: list[int], heads: int = 4, key_heads: int = 4, width: int = 8):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(1)
    pairs = TokenizedPairs(
        np.zeros(sum(lengths), np.int32), np.array(lengths, np.int32), np.ones(len(lengths), np.int32)
    )
    # As in encoders: slices of one projection, whose rows are not contiguous.
    qkv = torch.randn(sum(lengths), heads + 2 * key_heads, width, generator=generator)
    return pack(pairs, CPU), qkv.split([heads, key_heads, key_heads], dim=1)


@pytest.mark.parametrize("attention", STAND_INS.values(), ids=STAND_INS)
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize(("window", "causal"), [(None, False), (3, False), (1000, False), (None, True)])
def test_every_token_equals_sdpa(attention: Attention, key_heads: int, window: int | None, causal: bool) -> None:
    batch, qkv = packed_qkv([1, 2, 4, 4, 4, 5, 9, 17, 17, 40], key_heads=key_heads)
    expected = RunAttention().every_token(*qkv, batch, window, causal)
    torch.testing.assert_close(attention.every_token(*qkv, batch, window, causal), expected)


@pytest.mark.parametrize("attention", STAND_INS.values(), ids=STAND_INS)
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 3, 1000])
def test_the_first_token_is_that_of_a_full_pass(attention: Attention, key_heads: int, window: int | None) -> None:
    batch, (query, key, value) = packed_qkv([1, 2, 4, 4, 5, 9, 17, 17, 40], key_heads=key_heads)
    expected = RunAttention().every_token(query, key, value, batch, window)[batch.firsts]
    for each in (attention, RunAttention()):
        torch.testing.assert_close(each.one_token(query[batch.firsts], key, value, batch, window), expected)


@pytest.mark.parametrize("attention", STAND_INS.values(), ids=STAND_INS)
def test_the_last_token_is_that_of_a_causal_full_pass(attention: Attention) -> None:
    batch, (query, key, value) = packed_qkv([1, 2, 4, 4, 40], key_heads=2)
    expected = RunAttention().every_token(query, key, value, batch, causal=True)[batch.lasts]
    for each in (attention, RunAttention()):
        torch.testing.assert_close(each.one_token(query[batch.lasts], key, value, batch), expected)


def test_index_arrays_describe_the_packed_batch() -> None:
    pairs = TokenizedPairs(np.arange(10, dtype=np.int32), np.array([2, 4, 4], np.int32), np.array([1, 2, 3], np.int32))
    batch = pack(pairs, CPU)
    assert batch.token_ids.tolist() == list(range(10))
    assert batch.positions.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3]
    assert batch.type_ids.tolist() == [0, 1, 0, 0, 1, 1, 0, 0, 0, 1]
    assert batch.firsts.tolist() == [0, 2, 6]
    assert batch.lasts.tolist() == [1, 5, 9]
    assert batch.lengths.tolist() == [2, 4, 4]
    assert batch.bounds.tolist() == [0, 2, 6, 10]
    assert batch.bounds.dtype == torch.int32
    assert batch.max_length == 4
    assert batch.runs == [Run(0, 1, 2), Run(2, 2, 4)]


@pytest.mark.parametrize("kind", ["ettin", "bert", "mean"])
def test_whole_models_score_the_same_on_every_backend(kind: str, tmp_path: Path) -> None:
    folder = {
        "ettin": lambda: checkpoints.ettin(tmp_path, "17m"),
        "bert": lambda: checkpoints.bert_classifier(tmp_path),
        "mean": lambda: checkpoints.modernbert_classifier(tmp_path, "mean"),
    }[kind]()
    pairs = synthetic_pairs(7, 90, 300)
    expected = Scorer.load(Checkpoint(folder), "float32", "cpu").score(pairs)
    assert expected.std() > 1e-3
    for attention in STAND_INS.values():
        scorer = Scorer.load(Checkpoint(folder), "float32", "cpu", attention=attention)
        np.testing.assert_allclose(scorer.score(pairs), expected, atol=1e-4, rtol=0)
