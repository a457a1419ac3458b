"""The contest: its inputs, its turns, and the figures that it computes from times and scores."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks.contest import contenders, worker
from benchmarks.contest.contenders import ContestEntry, absent
from benchmarks.contest.engine import Task
from benchmarks.contest.flops import Arithmetic, FlopCount, seen
from benchmarks.contest.process import ContenderFailed
from benchmarks.contest.report import ContestOutcome, ContestSetting, agreement, kendall_tau, summary
from benchmarks.contest.rounds import Timed, time_in_turn, turns
from benchmarks.contest.sweep import best_batch

from rankfleet.bench.machine import busy_ticks
from rankfleet.bench.sample_texts import (
    SampleRequest,
    pair_lengths,
    read_requests,
    save_requests,
    training_texts,
    write_request,
)
from rankfleet.core.errors import InvalidRequest


def words_in(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("pairs", "mean", "max_tokens"), [(100, 154, 512), (10, 154, 512), (100, 40, 64), (1, 200, 512)]
)
def test_lengths_have_the_mean_and_the_limit_asked_for(pairs: int, mean: int, max_tokens: int) -> None:
    cut = [min(length, max_tokens) for length in pair_lengths(pairs, mean, max_tokens)]
    assert len(cut) == pairs
    assert abs(sum(cut) / pairs - mean) <= 0.5
    assert max(cut) <= max_tokens


def test_lengths_are_mixed_and_some_are_cut() -> None:
    lengths = sorted(pair_lengths(100, 154, 512))
    assert lengths[5] < 60
    assert lengths[95] > 300
    assert lengths[-1] > 512
    assert sorted(pair_lengths(100, 154, 512, seed=3)) == lengths
    assert pair_lengths(100, 154, 512, seed=3) != pair_lengths(100, 154, 512, seed=4)


@pytest.mark.parametrize(("mean", "max_tokens"), [(512, 512), (15, 512), (600, 512)])
def test_impossible_lengths_are_refused(mean: int, max_tokens: int) -> None:
    with pytest.raises(InvalidRequest, match="below the limit"):
        pair_lengths(10, mean, max_tokens)


def test_texts_have_the_lengths_asked_for_and_are_the_same_every_time(tmp_path: Path) -> None:
    request = write_request([30, 200, 17], words_in, special_tokens=3, seed=5)
    assert words_in(request.query) == 9
    assert [3 + 9 + words_in(document) for document in request.documents] == [30, 200, 17]
    assert request == write_request([30, 200, 17], words_in, special_tokens=3, seed=5)
    assert request.documents != write_request([30, 200, 17], words_in, special_tokens=3, seed=6).documents
    save_requests([request], tmp_path / "texts.json")
    assert read_requests(tmp_path / "texts.json") == [request]


def test_texts_come_as_near_to_a_length_as_whole_words_can() -> None:
    """Each word counts for three: for 20 tokens, 7 words have 21; for 19, 6 words have 18."""
    request = write_request([29, 28], lambda text: 3 * words_in(text), special_tokens=0, query_words=3)
    assert [words_in(document) for document in request.documents] == [7, 6]


def test_texts_resemble_prose() -> None:
    text = " ".join(training_texts(20))
    assert text.split().count("the") / len(text.split()) > 0.02
    assert len(set(text.split())) > 800
    assert ". " in text


def test_pairs_of_tokens_that_attend_to_each_other() -> None:
    assert seen(5, None) == 25
    assert seen(3, 2) == 9
    assert seen(5, 1) == 2 + 3 + 3 + 3 + 2
    assert seen(6, 2) == 3 + 4 + 5 + 5 + 4 + 3


def test_operations_of_two_small_layers_by_hand() -> None:
    arithmetic = Arithmetic(hidden=4, inner=6, mlp_matrices=3, windows=(None, 1))
    # A token: 2 · (4·16 + 3·4·6) = 272 a layer. Two pairs of 5 and 2 tokens, two layers: 272 · 7 · 2 = 3808; the
    # head 2 · (2·16 + 2·4) = 80. Attention: 4·4 = 16 for each of 25 + 4 seen and, through the window, 13 + 4.
    work = arithmetic.work([5, 2])
    assert work.linear == 3808 + 80
    assert work.attention == 16 * (29 + 17)
    # Of the last layer: keys and values for 7 tokens, 2·2·16 = 64 each; for 2 tokens the other 272 - 64; and first
    # tokens that see 2 and 2.
    assert work.first_token_only == 272 * 7 + 16 * 29 + 64 * 7 + 208 * 2 + 16 * 4 + 80
    assert work.total == 3888 + 736


def test_arithmetic_is_read_from_the_models_config() -> None:
    modern = SimpleNamespace(
        model_type="modernbert",
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=3,
        sliding_window=64,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    )
    assert Arithmetic.of(modern) == Arithmetic(256, 384, 3, (None, 64, 64))
    bert = SimpleNamespace(model_type="bert", hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    assert Arithmetic.of(bert) == Arithmetic(32, 64, 2, (None, None))


def test_the_best_batch_size_is_that_of_the_fastest_pass() -> None:
    passes = {1: 3.0, 2: 2.6, 4: 2.5, 8: 2.9, 16: 6.0, 32: 7.0}
    tried: list[int] = []

    def time_pass(size: int) -> float:
        tried.append(size)
        return passes[size]

    assert best_batch(time_pass, [32, 16, 8, 4, 2, 1]) == (4, passes)
    # Together they took more than 15 s, so none gets a second pass.
    assert tried == [1, 2, 4, 8, 16, 32]


def test_sizes_get_further_passes_while_there_is_time() -> None:
    passes = {1: [0.3, 0.2, 0.25], 2: [0.26, 0.26, 0.26], 4: [0.25, 0.24, 0.1], 8: [0.6], 16: [0.7], 32: []}
    size, seconds = best_batch(lambda size: passes[size].pop(0), [1, 2, 4, 8, 16, 32])
    assert (size, seconds) == (4, {1: 0.2, 2: 0.26, 4: 0.1, 8: 0.6, 16: 0.7})


class FakeHandle:
    """A contender that takes the given seconds, negative for disturbed rounds, and logs its turns."""

    def __init__(self, name: str, log: list[tuple[str, int]], seconds: list[float]) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert do == "time"
        self.log.append((self.name, arguments["request"]))
        if not self.seconds:
            raise ContenderFailed("ran out")
        taken = self.seconds.pop(0)
        return {"seconds": abs(taken), "cpu_s": 0.5, "others_cpu_s": 0.25, "disturbed": taken < 0, "idle_cpu_s": 0.01}


def test_each_contender_has_one_turn_per_round() -> None:
    assert list(turns(["a", "b", "c"], 4)) == [
        *((0, "a"), (0, "b"), (0, "c")),
        *((1, "b"), (1, "c"), (1, "a")),
        *((2, "c"), (2, "a"), (2, "b")),
        *((3, "a"), (3, "b"), (3, "c")),
    ]


def test_rounds_have_texts_of_their_own_and_go_on_without_those_that_fail() -> None:
    log: list[tuple[str, int]] = []
    handles = {
        "a": FakeHandle("a", log, [1.0, 9.0, 2.0]),
        "b": FakeHandle("b", log, [3.0]),
        "c": FakeHandle("c", log, [4.0, 4.0, 4.0]),
    }
    timed, failed = time_in_turn(handles, 3, 9, 2, lambda *_: None)
    assert log == [("a", 2), ("b", 2), ("c", 2), ("b", 3), ("c", 3), ("a", 3), ("c", 4), ("a", 4)]
    assert failed == {"b": "ran out"}
    assert timed["a"].median_s == 2.0
    assert timed["a"].idle_cpu_s == pytest.approx(0.03)
    assert timed["a"].others_cpu_s == pytest.approx(0.75)
    assert set(timed) == {"a", "c"}


def test_disturbed_rounds_are_repeated() -> None:
    log: list[tuple[str, int]] = []
    handles = {
        "a": FakeHandle("a", log, [1.0, -9.0, 2.0]),
        "b": FakeHandle("b", log, [-7.0, -8.0, -9.0, 3.0]),
        "c": FakeHandle("c", log, [-7.0, -8.0, -9.0, -10.0]),
    }
    timed, _ = time_in_turn(handles, 2, 4, 0, lambda *_: None)
    assert [name for name, _ in log].count("a") == 3
    assert timed["a"].seconds == [1.0, 2.0]
    assert timed["b"].seconds == [3.0]  # one of two rounds asked for
    assert timed["c"].seconds == [7.0, 8.0, 9.0, 10.0]
    assert [timed[name].undisturbed for name in "abc"] == [True, True, False]


def test_agreement_of_scores_by_hand() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 2, 2, 4], [1, 2, 2, 4]) == 1.0  # what is tied in both agrees
    assert kendall_tau([1, 2, 2], [1, 2, 3]) == pytest.approx(4 / 24**0.5)
    assert kendall_tau([1, 1], [1, 2]) == 0.0
    assert "wrong" in agreement([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0])
    assert agreement([1.0, 2.5], [1.0, 2.0]) == {"max_abs_difference": 0.5, "kendall_tau": 1.0}


def outcome(
    name: str, peer: str, dtype: str, seconds: list[float], scores: list[float], batch: int | None
) -> ContestOutcome:
    return ContestOutcome(ContestEntry(name, peer, dtype), scores, batch, {}, Timed(quiet_s=seconds))


def contest_figures() -> dict[str, Any]:
    right, near, wrong = [1.0, 2.0, 3.0, 4.0], [1.0, 2.1, 3.0, 4.0], [float("nan")] * 4
    setting = ContestSetting([10, 20, 30, 40], FlopCount(700, 100, 400), {"float32": 800.0, "bfloat16": 1600.0})
    return summary(
        [
            outcome("rankfleet-fp32", "rankfleet", "float32", [2.0, 1.0, 9.0], right, None),
            outcome("rankfleet-bf16", "rankfleet", "bfloat16", [1.0], near, None),
            outcome("rankfleet-int8", "rankfleet", "int8", [0.5], near, None),
            outcome("sentence-transformers-fp32", "sentence-transformers", "float32", [4.0], right, 4),
            outcome("sentence-transformers-bf16", "sentence-transformers", "bfloat16", [3.2], near, 8),
            outcome("openvino-fp32", "openvino", "float32", [5.0], right, 1),
            outcome("openvino-bf16", "openvino", "bfloat16", [0.1], wrong, 1),
        ],
        {"onnxruntime": {"absent": "pip install"}},
        setting,
    )


def test_figures_by_hand() -> None:
    result = contest_figures()
    json.dumps(result, allow_nan=False)
    # int8 is faster, but it is not of full quality.
    assert result["rankfleet"]["pairs_per_s"] == 4.0
    assert result["rankfleet"]["dtype"] == "bfloat16"
    assert result["rankfleet"]["max_abs_difference"] == 0.1
    assert result["tokens_per_s"] == 100
    assert result["bound_pairs_per_s"] == 8.0  # 1600 operations a second ÷ 200 a pair
    assert result["bound_fraction"] == 0.5
    assert result["rankfleet"]["first_token_bound_fraction"] == 0.25
    assert result["by_dtype"]["float32"]["pairs_per_s"] == 2.0
    assert result["by_dtype"]["int8"]["pairs_per_s"] == 8.0
    peers = result["peers"]
    assert peers["onnxruntime"] == {"absent": "pip install"}
    assert peers["sentence-transformers"] == {
        "pairs_per_s": 1.25,
        "batch_size": 8,
        "dtype": "bfloat16",
        "tokens_per_s": 31,
    }
    assert peers["sentence-transformers-fp32"]["batch_size"] == 4
    assert peers["openvino"]["dtype"] == "float32"
    assert peers["openvino-bf16"]["wrong"] == "some scores are not finite"
    assert result["ratio"] == {
        "sentence-transformers-fp32": 4.0,
        "sentence-transformers-bf16": 3.2,
        "sentence-transformers": 3.2,
        "openvino-fp32": 5.0,
        "openvino": 5.0,
    }
    assert result["ratio_by_dtype"]["int8"]["sentence-transformers-fp32"] == 8.0
    assert result["scores_compared_with"] == "sentence-transformers-fp32"


def test_the_table_shows_every_contender(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.contest.__main__ import show

    work = {"pairs": 4, "mean_tokens": 25.0, "longest_tokens": 40, "model": "demo/small"}
    about = {"machine": "a CPU", "matmul_gflop_per_s": {"float32": 8e-7}, "undisturbed": False}
    ours = contest_figures()
    ours["rankfleet"]["tokenize_share"] = 0.25
    show(ours | {"work": work, "measured": about, "threads": 2, "rounds": 3})
    printed = capsys.readouterr()
    rows = {line.split("  ")[0].strip(): line.split() for line in printed.out.splitlines()}
    assert rows["rankfleet bfloat16"] == ["rankfleet", "bfloat16", "4.0", "packed", "50%", "0.1000"]
    assert rows["sentence-transformers-fp32"] == ["sentence-transformers-fp32", "1.0", "4", "4.00", "0.0000"]
    assert rows["onnxruntime"] == ["onnxruntime", "absent"]
    assert "wrong scores" in printed.out
    assert "onnxruntime: absent: pip install" in printed.err
    assert "disturbed" in printed.err


def test_busy_time_counts_only_the_given_cpus() -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice
    lines = ["cpu  9 9 9 9 9 9 9 9 9 9", "cpu0 1 2 3 1000 500 4 5 6 0 0", "cpu1 10 0 0 9 9 0 0 0 0 0"]
    stat = "\n".join([*lines, "cpu2 7 7 7 7 7 7 7 7 0 0", "intr 5 0"])
    assert busy_ticks(stat, {0, 1}) == 1 + 2 + 3 + 4 + 5 + 6 + 10


def test_an_absent_peer_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    assert "pip install 'rankfleet[bench]'" in (absent("openvino", "cpu") or "")
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(__spec__=SimpleNamespace()))
    assert absent("sentence-transformers", "cuda") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "--model demo/large or --shape 17m"),
        ({"model": "demo/small"}, "--model demo/large or --shape 17m"),
        ({"shape": "2b"}, "--shape 2b: there are 17m, 32m"),
        ({"against": ["tei"]}, "--against tei: there are sentence-transformers, onnxruntime, openvino"),
        ({"dtypes": ["float8"]}, "--dtype float8: there are float32, bfloat16"),
        ({"dtypes": []}, "--dtype: give one at least"),
    ],
)
def test_a_wrong_option_is_named(change: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        **{"model": None, "shape": "17m", "pairs": 10, "mean_tokens": 40, "max_tokens": 64},
        **{"against": [], "dtypes": ["float32"], "device": "cpu", "threads": 1, "rounds": 1},
    }
    with pytest.raises(InvalidRequest, match=message):
        Task(**(right | change))


class FakeContender:
    batches = True

    def __init__(self, model: str, dtype: str, device: str, threads: int, max_tokens: int) -> None:
        self.versions = {"fake": dtype}

    def score(self, request: SampleRequest, batch_size: int) -> np.ndarray:
        if request.query == "break":
            raise ValueError("cannot")
        return np.array([float(len(document)) for document in request.documents])


def test_a_worker_answers_each_order_and_survives_a_failing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(contenders.CONTENDERS, "fake", FakeContender)
    save_requests(
        [SampleRequest("q", ["a", "bbb"]), SampleRequest("q", ["cc"]), SampleRequest("break", ["d"])],
        tmp_path / "texts",
    )
    common = {"model": "m", "dtype": "float32", "device": "cpu", "threads": 1, "max_tokens": 64}
    orders = [
        {"do": "load", "peer": "fake", "texts": str(tmp_path / "texts"), **common},
        {"do": "sweep", "sizes": [1, 2]},
        {"do": "score"},
        {"do": "time", "request": 2},
        {"do": "time", "request": 1},
    ]
    answers = io.StringIO()
    worker.serve(io.StringIO("".join(json.dumps(order) + "\n" for order in orders)), answers)
    loaded, swept, scored, failed, timed = (json.loads(line) for line in answers.getvalue().splitlines())
    assert loaded["versions"] == {"fake": "float32"}
    assert swept["batch_size"] in (1, 2)
    assert scored == {"scores": [1.0, 3.0]}
    assert failed == {"error": "ValueError: cannot"}
    assert timed.keys() == {"seconds", "cpu_s", "others_cpu_s", "disturbed", "idle_cpu_s"}
