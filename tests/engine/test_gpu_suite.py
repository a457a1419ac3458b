"""benchmarks/gpu_suite.py runs, continues where it stopped, needs no Ray, and says so where there is no GPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.contest.report import kendall_tau
from benchmarks.gpu.ablation import PaddedScorer
from benchmarks.gpu.engine import product_flops
from benchmarks.gpu.goals import beside_goals
from benchmarks.gpu.random_model import Setting, random_model, tokenized

from rankfleet.estimates.profile import read_profile
from tests.engine.kernels import fake_flash_attn_varlen_func

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_suite.py"


# Every part, and every field of its results on a CPU.
FIELDS = {
    "correctness": {"pairs", "score_std", "float32 sdpa", "bfloat16 sdpa"},
    "ablation": {
        *("pairs", "kernel"),
        *("fp32 + SDPA, padded", "bf16 + SDPA, padded", "bf16 + varlen, padded", "bf16 + varlen, unpadded"),
    },
    "compare": {
        *("pairs", "mean_tokens", "threads", "rankfleet", "peer", "pairs_per_s", "ratio"),
        *("published_h100_pairs_per_s", "max_abs_diff"),
    },
    "curves": {"model", "held_out_error", "samples"},
    "latency": {"pairs", "tokens_each", "with graphs", "without"},
    "memory": {"pairs", "longest", "seconds", "finite", "peak_rss_mib"},
    "matmul": {
        *("pairs_per_s", "runs_s", "tokens_per_s", "measured_tflops", "bound_pairs_per_s", "bound_fraction"),
        "recorded",
    },
}


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_suite", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_suite"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def run(suite: ModuleType, out: Path, models: Path, *more: str) -> dict[str, Any]:
    given = ["--device", "cpu", "--shapes", "tiny", "--quick", "--json", str(out), "--models", str(models)]
    suite.main([*given, *more])
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def test_all_parts_run_on_a_cpu(suite: ModuleType, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "suite.json"
    report = run(suite, out, models)
    tiny = {part: stored["shapes"]["tiny"] for part, stored in report["parts"].items()}
    assert {part: set(result) for part, result in tiny.items()} == FIELDS
    assert tiny["correctness"]["float32 sdpa"]["max_abs_diff"] < 1e-5
    assert tiny["correctness"]["bfloat16 sdpa"]["kendall_tau"] > 0.9
    compared = tiny["compare"]
    assert set(compared["ratio"]) == {"from texts", "tokenized before", "token ids against texts"}
    assert compared["peer"]["failed"] == {}
    assert set(compared["max_abs_diff"]) == {"as it is", "dynamic=True", "reduce-overhead"}
    assert max(compared["max_abs_diff"].values()) < 1e-4
    best = max(compared["pairs_per_s"][f"peer {name}, from features"] for name in compared["max_abs_diff"])
    own = compared["pairs_per_s"]["rankfleet, from token ids"]
    assert compared["ratio"]["tokenized before"] == pytest.approx(own / best, abs=0.01)
    assert tiny["latency"]["without"]["p50_ms"] <= tiny["latency"]["without"]["p99_ms"]
    assert tiny["latency"]["with graphs"]["recorded"] == 0  # a CPU has none
    assert tiny["memory"]["finite"]
    assert tiny["matmul"]["bound_fraction"] > 0
    for stored in report["parts"].values():
        assert {"date", "machine", "versions", "command", "backends", "quick"} == set(stored["measured"])
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(report["parts"]["curves"]["profile"]))
    assert set(read_profile(profile)) == {"tiny"}


def test_a_run_continues_where_the_last_one_stopped(suite: ModuleType, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "suite.json"
    stopped = run(suite, out, models, "--part", "latency", "--max-s", "-1")
    assert "the time for this part was up" in stopped["parts"]["latency"]["shapes"]["tiny"]["not_run"]
    first = run(suite, out, models, "--part", "latency")
    assert "with graphs" in first["parts"]["latency"]["shapes"]["tiny"]
    both = run(suite, out, models, "--part", "memory", "--part", "latency")
    assert both["parts"]["latency"] == first["parts"]["latency"]
    assert "finite" in both["parts"]["memory"]["shapes"]["tiny"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_parts_are_marked_not_run_and_results_are_kept(suite: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "suite.json"
    out.write_text(json.dumps({"parts": {"latency": {"shapes": {"17m": {"p50_ms": 1.0}}}}}))
    suite.main(["--json", str(out)])
    parts = json.loads(out.read_text())["parts"]
    assert parts["latency"] == {"shapes": {"17m": {"p50_ms": 1.0}}}
    assert {part for part, stored in parts.items() if stored == {"not_run": "no CUDA device"}} == {*suite.PARTS} - {
        "latency"
    }


@pytest.mark.parametrize("kernel", [False, True])
def test_padded_arms_of_the_ablation_score_as_the_engine(models: Path, kernel: bool) -> None:
    from rankfleet.engine.attention.varlen import VarlenAttention, flash_attn_kernel

    model = random_model("tiny", Setting(torch.device("cpu"), True, None), models)
    pairs = tokenized(np.array([9, 64, 65, 66, 130, 131, 200, 8], np.int32))
    inner = VarlenAttention(flash_attn_kernel(fake_flash_attn_varlen_func)) if kernel else None
    scores = PaddedScorer(model, "float32", inner, 3).score(pairs)
    np.testing.assert_allclose(scores, model.scorer("float32").score(pairs), atol=1e-5)


def test_kendall_tau_counts_pairs_in_another_order() -> None:
    # Of the six pairs, (3, 2) alone is in another order: (5 - 1) / 6.
    assert kendall_tau(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(4 / 6)


def test_product_flops_count_the_last_layer_for_first_tokens_only() -> None:
    # tiny: hidden 128, inner 96, 4 layers: 4·128² + 3·128·96 = 102400 a layer and token, 3·128² in the last.
    assert product_flops("tiny", np.array([10])) == 2 * (10 * 3 * 102400 + 10 * 49152 + 102400)


def test_goals_stand_beside_the_best_figure_that_was_measured() -> None:
    compared = {"rankfleet, from texts": 20_000, "rankfleet, from texts on all threads": 70_000}
    report = {
        "parts": {
            "compare": {"shapes": {"17m": {"pairs_per_s": compared}, "150m": {"not_run": "out of memory"}}},
            "latency": {"shapes": {"17m": {"with graphs": {"p50_ms": 1.5}, "without": {"p50_ms": 4.0}}}},
            "matmul": {"shapes": {"17m": {"pairs_per_s": 160_000}, "1b": {"not_run": "no time"}}},
        }
    }
    assert list(beside_goals(report)) == [
        ("17m from token ids, pairs/s", "≥ 150,000", "160,000, met"),
        ("17m from texts, pairs/s", "≥ 75,000", "70,000, not met"),
        ("150m from token ids, pairs/s", "≥ 10,000", "not measured"),
        ("1b, share of the measured bfloat16 matrix rate", "≥ 0.7", "not measured"),
        ("17m, 100 pairs of 154 tokens, p50 ms", "≤ 2", "1.5, met"),
    ]


def test_the_suite_needs_neither_ray_nor_tests() -> None:
    code = (
        "import runpy, sys; sys.modules['ray'] = None; sys.modules['pydantic'] = None; sys.modules['tests'] = None;"
        f"sys.argv = ['gpu_suite.py', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "goes on where it" in shown.stdout
