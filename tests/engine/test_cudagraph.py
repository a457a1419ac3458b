"""Buckets, padding and replay of recorded forward passes, with a stand-in for CUDA's recorder."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.packing import PackedBatch, index_buffer, pack, read_buffer
from rankfleet.engine.attention.varlen import VarlenAttention, flash_attn_kernel
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.models.modernbert import add_norm
from rankfleet.engine.models.rotary import Rotary, rotate
from rankfleet.engine.runtime.cudagraph import Bucket, Graphs, buckets_to, choose, pad_to_bucket
from rankfleet.engine.runtime.measure import synthetic_pairs
from rankfleet.engine.runtime.scorer import Scorer
from tests.engine import checkpoints
from tests.engine.fakes import FakeRecorder
from tests.engine.kernels import fake_flash_attn_varlen_func

CPU = torch.device("cpu")
SMALL = [Bucket(64, 4), Bucket(128, 8), Bucket(256, 16)]


def pairs_of(*lengths: int) -> TokenizedPairs:
    tokens = sum(lengths)
    return TokenizedPairs(
        np.arange(1, tokens + 1, dtype=np.int32), np.array(lengths, np.int32), np.ones(len(lengths), np.int32)
    )


def sums(batch: PackedBatch) -> torch.Tensor:
    """Stands in for a model: the sum of each pair's token ids."""
    ends = torch.cat([torch.zeros(1, dtype=torch.long), batch.token_ids.cumsum(0)])
    return (ends[batch.bounds[1:].long()] - ends[batch.bounds[:-1].long()]).float()


def test_buckets_divide_each_octave_in_four() -> None:
    assert [b.tokens for b in buckets_to(1024)] == [256, 320, 384, 448, 512, 640, 768, 896, 1024]
    assert buckets_to(65536)[-1] == Bucket(65536, 2048)
    assert len(buckets_to(65536)) == 33


@pytest.mark.parametrize(
    ("lengths", "bucket"),
    [
        ([64], Bucket(64, 4)),  # full, no filler
        ([10], Bucket(64, 4)),  # 54 missing: two filler pairs of at most 32
        ([5, 5, 5], Bucket(128, 8)),  # 49 missing would be rows 4 and 5
        ([20, 20, 20], Bucket(64, 4)),  # 4 missing: row 4
        ([60, 60], Bucket(128, 8)),
        ([100, 100, 100], None),  # too many tokens
        ([1] * 17, None),  # too many pairs
        ([101], None),  # too long a pair
    ],
)
def test_the_smallest_bucket_with_room_is_chosen(lengths: list[int], bucket: Bucket | None) -> None:
    assert choose(SMALL, np.array(lengths, np.int32), max_pair=100, max_filler=32) == bucket


def test_a_batch_is_padded_to_exactly_its_bucket() -> None:
    filled = pad_to_bucket(pairs_of(10, 11), Bucket(100, 8), max_filler=32)
    assert filled.lengths.tolist() == [10, 11, 32, 32, 15, 0, 0, 0]
    assert filled.ids.tolist() == [*range(1, 22), *[0] * 79]
    assert len(filled.document_offsets) == 8
    exact = pad_to_bucket(pairs_of(36, 64), Bucket(100, 8), max_filler=32)
    assert exact.lengths.tolist() == [36, 64, 0, 0, 0, 0, 0, 0]


def test_index_arrays_of_empty_rows_stay_within_the_batch() -> None:
    filled = pad_to_bucket(pairs_of(3, 2), Bucket(5, 4), max_filler=32)
    buffer = index_buffer(filled)
    assert len(buffer) == 4 * 5 + 4 * 4 + 1
    batch = read_buffer(torch.from_numpy(buffer), 5, 3, filled.lengths)
    assert batch.bounds.tolist() == [0, 3, 5, 5, 5]
    assert batch.firsts.tolist() == [0, 3, 4, 4]
    assert batch.lasts.tolist() == [2, 4, 4, 4]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]


def test_replays_give_each_batch_its_own_logits() -> None:
    graphs = Graphs(sums, FakeRecorder(), CPU, SMALL, max_pair=100, max_filler=32)
    graphs.capture()
    assert graphs.recorded == SMALL
    first = graphs.run(pairs_of(1, 2))
    second = graphs.run(pairs_of(4))  # overwrites the memory of the first
    assert first is not None
    assert second is not None
    assert first.tolist() == [1, 2 + 3]
    assert second.tolist() == [1 + 2 + 3 + 4]
    assert graphs.run(pairs_of(101)) is None
    assert graphs.run(pairs_of(60, 60)) is not None
    assert graphs.runs == {Bucket(64, 4): 2, Bucket(128, 8): 1, None: 1}


def test_running_a_batch_records_nothing() -> None:
    recorder = FakeRecorder()
    graphs = Graphs(sums, recorder, CPU, SMALL)
    assert graphs.run(pairs_of(4)) is None
    assert recorder.asked == 0


def test_out_of_memory_leaves_the_smaller_buckets(caplog: pytest.LogCaptureFixture) -> None:
    graphs = Graphs(sums, FakeRecorder({0: torch.OutOfMemoryError("of 9 GiB")}), CPU, SMALL)
    with caplog.at_level(logging.WARNING):
        graphs.capture()
    assert graphs.recorded == SMALL[:2]
    assert "no graph for 256 tokens: of 9 GiB" in caplog.text


def test_any_other_failure_ends_the_recording(caplog: pytest.LogCaptureFixture) -> None:
    recorder = FakeRecorder({1: RuntimeError("operation not permitted when stream is capturing")})
    graphs = Graphs(sums, recorder, CPU, SMALL)
    with caplog.at_level(logging.WARNING):
        graphs.capture()
    assert recorder.asked == 2
    assert graphs.recorded == SMALL[2:]
    assert "no graphs from 128 tokens down: RuntimeError: operation not permitted" in caplog.text


@pytest.mark.parametrize("kind", ["ettin", "bert", "mean", "qwen2"])
def test_recorded_passes_score_as_plain_ones(kind: str, tmp_path: Path) -> None:
    folder = {
        "ettin": lambda: checkpoints.ettin(tmp_path, (64, 4, 2, 96)),
        "bert": lambda: checkpoints.bert_classifier(tmp_path),
        "mean": lambda: checkpoints.modernbert_classifier(tmp_path, "mean"),
        "qwen2": lambda: checkpoints.qwen2_reranker(tmp_path),
    }[kind]()
    attention = VarlenAttention(flash_attn_kernel(fake_flash_attn_varlen_func))
    scorer = Scorer.load(Checkpoint(folder), device="cpu", attention=attention)
    batches = [
        synthetic_pairs(9, 90, 300, seed=1),
        synthetic_pairs(2, 20, 300, seed=2),
        synthetic_pairs(1, 500, min(600, scorer.max_pair)),
    ]
    plain = [scorer.score(batch) for batch in batches]
    assert scorer.graphs is None
    scorer.record(FakeRecorder(), [Bucket(256, 8), Bucket(1024, 32)])
    for batch, expected in zip(batches, plain, strict=True):
        np.testing.assert_allclose(scorer.score(batch), expected, atol=1e-5, rtol=0)
    assert scorer.graphs is not None
    longest = int(batches[2].lengths.max())
    assert scorer.graphs.runs[Bucket(1024, 32)] == 1 + (longest <= 512)
    assert scorer.graphs.runs[Bucket(256, 8)] == 1


def test_queries_and_keys_rotated_at_once_equal_each_rotated_alone() -> None:
    x = torch.randn(5, 3, 2, 8, generator=torch.Generator().manual_seed(1))
    rotary = Rotary.at(torch.arange(5), 10000.0, 8)
    both = rotate(x[:, :2], rotary.cos[:, None], rotary.sin[:, None])
    torch.testing.assert_close(both[:, 0], rotary(x[:, 0]))
    torch.testing.assert_close(both[:, 1], rotary(x[:, 1]))


def test_add_norm_gives_the_sum_and_its_layer_norm() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    total, normed = add_norm(x, y, torch.ones(2), None, 0.0)
    assert total.tolist() == [[1, 3]]
    assert normed.tolist() == [[-1, 1]]


def test_batches_are_packed_on_a_cpu_without_cuda() -> None:
    assert pack(pairs_of(2, 3), CPU).token_ids.tolist() == [1, 2, 3, 4, 5]
