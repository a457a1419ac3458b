"""The Triton kernels against PyTorch's operations: on a GPU where there is one, else by Triton's interpreter."""

from contextlib import nullcontext

import pytest
import torch

ON = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytest.importorskip("triton", reason="Triton is for Linux")

from torch.nn import functional  # noqa: E402

from rankfleet.engine.attention import packed  # noqa: E402
from rankfleet.engine.attention.packed import PackedAttention  # noqa: E402
from rankfleet.engine.attention.packing import PackedBatch, pack  # noqa: E402
from rankfleet.engine.attention.sdpa import RunAttention  # noqa: E402
from rankfleet.engine.checkpoint.files import Checkpoint  # noqa: E402
from rankfleet.engine.models import fused  # noqa: E402
from rankfleet.engine.models.modernbert import ModernBertEncoder, add_norm, rotated  # noqa: E402
from rankfleet.engine.models.rotary import Rotary  # noqa: E402
from rankfleet.engine.runtime.cudagraph import Bucket, pad_to_bucket  # noqa: E402
from rankfleet.engine.runtime.measure import synthetic_pairs  # noqa: E402
from rankfleet.engine.runtime.scorer import Scorer  # noqa: E402
from tests.engine import checkpoints  # noqa: E402
from tests.engine.test_cudagraph import pairs_of  # noqa: E402

LENGTHS = (1, 2, 4, 4, 5, 9, 17, 40, 63, 64, 65, 150)  # on both sides of a block, and several blocks


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(ON)


def packed_qkv(key_heads: int, width: int) -> tuple[PackedBatch, tuple[torch.Tensor, ...]]:
    batch = pack(pairs_of(*LENGTHS), ON)
    # As in encoders: slices of one projection, whose rows are not contiguous.
    return batch, normal(sum(LENGTHS), 4 + 2 * key_heads, width).split([4, key_heads, key_heads], dim=1)


@pytest.mark.parametrize(
    ("window", "causal", "key_heads", "width"),
    [
        (None, False, 4, 64),
        (3, False, 4, 16),
        (64, False, 4, 32),
        (1000, False, 1, 16),
        (None, True, 2, 16),
    ],
)
def test_attention_of_every_token_is_that_of_sdpa(window: int | None, causal: bool, key_heads: int, width: int) -> None:
    batch, qkv = packed_qkv(key_heads, width)
    expected = RunAttention().every_token(*qkv, batch, window, causal)
    actual = PackedAttention().every_token(*qkv, batch, window, causal)
    torch.testing.assert_close(actual, expected, atol=2e-6 if ON.type == "cpu" else 2e-3, rtol=0)


@pytest.mark.parametrize(("window", "key_heads"), [(None, 4), (None, 2), (3, 2), (1000, 4)])
def test_attention_of_one_token_is_that_of_sdpa(window: int | None, key_heads: int) -> None:
    batch, (query, key, value) = packed_qkv(key_heads, 32)
    expected = RunAttention().one_token(query[batch.firsts], key, value, batch, window)
    actual = PackedAttention().one_token(query[batch.firsts], key, value, batch, window)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)


def test_empty_pairs_at_the_end_of_a_bucket_disturb_no_other() -> None:
    filled = pad_to_bucket(pairs_of(3, 20), Bucket(64, 8), max_filler=32)
    batch, real = pack(filled, ON), pack(pairs_of(3, 20), ON)
    query, key, value = (normal(64, 4, 16) + number for number in range(3))
    one = PackedAttention().one_token(query[batch.firsts], key, value, batch)
    assert bool(one.isfinite().all())
    expected = RunAttention().one_token(query[real.firsts], key, value, real)
    torch.testing.assert_close(one[:2], expected, atol=2e-6, rtol=0)
    every = PackedAttention().every_token(query, key, value, batch)
    expected = RunAttention().every_token(query[:23], key[:23], value[:23], real)
    torch.testing.assert_close(every[:23], expected, atol=2e-6 if ON.type == "cpu" else 2e-3, rtol=0)


def test_each_kernel_of_a_head_width_is_tried_before_a_model_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    packed.check(ON, 32)


def test_each_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: nullcontext(entered.append(tensor)))
    batch, (query, key, value) = packed_qkv(4, 16)
    x, qkv, rotary = normal(2, 64), normal(2, 3, 1, 16), Rotary.at(torch.arange(2), 10000.0, 16)
    PackedAttention().every_token(query, key, value, batch)
    PackedAttention().one_token(query[batch.firsts], key, value, batch)
    fused.add_norm(x, x, x[0], None, 1e-5)
    fused.gelu_gate(x)
    fused.rotate_in_place(qkv, rotary.cos, rotary.sin)
    assert [len(tensor) for tensor in entered] == [len(query), len(LENGTHS), 2, 2, 2]


def test_large_products_do_not_overflow() -> None:
    batch, (query, key, value) = packed_qkv(4, 16)
    actual = PackedAttention().every_token(100 * query, 100 * key, value, batch)
    torch.testing.assert_close(
        actual, RunAttention().every_token(100 * query, 100 * key, value, batch), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("hidden", [96, 256])
@pytest.mark.parametrize("biased", [False, True])
def test_add_norm(rows: int, hidden: int, biased: bool) -> None:
    x, y, weight = normal(rows, hidden), normal(rows, hidden) + 3, normal(hidden)
    bias = normal(hidden + 1)[1:] if biased else None
    for actual, expected in zip(
        fused.add_norm(x, y, weight, bias, 1e-5), add_norm(x, y, weight, bias, 1e-5), strict=True
    ):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "inner"), [(1, 384), (35, 200)])
def test_gelu_gate(rows: int, inner: int) -> None:
    x = 3 * normal(rows, 2 * inner)
    left, right = x.chunk(2, dim=-1)
    torch.testing.assert_close(fused.gelu_gate(x), functional.gelu(left) * right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 2, 64), (35, 5, 64), (17, 3, 16)])
def test_rotation_in_place_leaves_the_values(tokens: int, heads: int, width: int) -> None:
    qkv = normal(tokens, 3, heads, width)
    rotary = Rotary.at(torch.arange(tokens, device=ON), 10000.0, width)
    expected, values = rotated(qkv.clone(), rotary.cos, rotary.sin), qkv[:, 2].clone()
    for actual, of_torch in zip(fused.rotate_in_place(qkv, rotary.cos, rotary.sin), expected, strict=True):
        torch.testing.assert_close(actual, of_torch, atol=1e-6, rtol=0)
    assert torch.equal(qkv[:, 2], values)


def test_heads_that_cannot_be_rotated_are_named() -> None:
    assert [width for width in (16, 24, 63, 64, 96, 128) if fused.can_rotate(width)] == [16, 64, 128]


def test_a_model_with_all_of_them_scores_as_without(tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = Checkpoint(checkpoints.ettin(tmp_path_factory.mktemp("model"), (64, 4, 2, 96)))
    plain = Scorer.load(checkpoint, "float32", str(ON), compiled=False, attention=RunAttention())
    whole = Scorer.load(checkpoint, "float32", str(ON), compiled=False, attention=PackedAttention(), graphs=False)
    whole.fuse()
    assert isinstance(whole._encoder, ModernBertEncoder)
    assert whole._encoder.add_norm is fused.add_norm
    pairs = synthetic_pairs(9, 90, 300, seed=1)
    tolerance = 1e-5 if ON.type == "cpu" else 5e-3
    assert abs(whole.score(pairs) - plain.score(pairs)).max() < tolerance


def test_steps_that_cannot_be_fused_stay_plain(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of resource: shared memory\nmore")

    monkeypatch.setattr(fused, "gelu_gate", broken)
    checkpoint = Checkpoint(checkpoints.ettin(tmp_path_factory.mktemp("model"), (64, 2, 1, 96)))
    scorer = Scorer.load(checkpoint, "float32", str(ON), compiled=False, attention=RunAttention())
    pairs = synthetic_pairs(3, 20, 100, seed=1)
    before = scorer.score(pairs)
    scorer.fuse()
    assert scorer.score(pairs).tolist() == before.tolist()
    assert "element-wise steps are not fused: out of resource: shared memory" in caplog.text
