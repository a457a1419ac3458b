"""Measure the engine on a GPU, part by part, into one JSON file.

Needs torch >= 2.11, transformers >= 5.17, sentence-transformers >= 6.0 and Python >= 3.11, but neither Ray nor an
installation: run it from a source tree. Models have random weights in the shapes of the Ettin rerankers, so nothing is
downloaded. Their speed is that of the published models; their scores mean nothing.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "serve"), str(ROOT)]

import torch  # noqa: E402
from benchmarks.contest.shapes import ETTIN  # noqa: E402
from benchmarks.gpu.ablation import ablation  # noqa: E402
from benchmarks.gpu.comparison import compare  # noqa: E402
from benchmarks.gpu.engine import correctness, curves, latency, matmul, memory  # noqa: E402
from benchmarks.gpu.goals import beside_goals  # noqa: E402
from benchmarks.gpu.random_model import SHAPES, RandomModel, Result, Setting, random_model  # noqa: E402

from rankfleet.bench.results import measured, read_results, write_results  # noqa: E402
from rankfleet.estimates.latency import LatencyModel  # noqa: E402
from rankfleet.estimates.profile import profile_json  # noqa: E402

PACKAGES = ("sentence-transformers", "flash-attn", "triton")  # recorded besides the versions of every result
PARTS: dict[str, Callable[[RandomModel], Result]] = {
    "correctness": correctness,
    "ablation": ablation,
    "compare": compare,
    "curves": curves,
    "latency": latency,
    "memory": memory,
    "matmul": matmul,
}


def conditions(setting: Setting) -> Result:
    """Date, machine, versions and command, and the settings on which the figures depend."""
    machine = torch.cuda.get_device_name(setting.device) if setting.cuda else None
    hopper = importlib.util.find_spec("flash_attn_interface")  # FlashAttention 3, which torch-varlen then uses
    about = measured(machine, PACKAGES)
    about["versions"]["flash-attn-3"] = "installed" if hopper else "not installed"
    return about | {"backends": setting.backends, "quick": setting.quick}


def same_conditions(one: Result, other: Result) -> bool:
    """Whether figures measured under these conditions may stand side by side: all but date and command agree."""
    keys = ("machine", "versions", "backends", "quick")
    return all(one.get(key) == other.get(key) for key in keys)


def run_part(
    part: str, shapes: list[str], setting: Setting, out: Path, models: Path, max_s: float, again: bool
) -> None:
    """Measure the shapes of this part that the file does not have under these conditions, and write after each."""
    started = time.monotonic()
    about = conditions(setting)
    report = read_results(out) if out.exists() else {}
    kept = report.setdefault("parts", {}).get(part, {})
    results: Result = kept.get("shapes", {}) if same_conditions(kept.get("measured", {}), about) and not again else {}
    for shape in shapes:
        if shape in results and "not_run" not in results[shape]:
            print(f"{part} {shape}: kept")
            continue
        if time.monotonic() - started > max_s:
            results[shape] = {"not_run": "the time for this part was up; run it again to go on"}
        else:
            try:
                results[shape] = PARTS[part](random_model(shape, setting, models))
            except Exception as error:  # one shape that fails leaves the others measured
                results[shape] = {"not_run": f"{type(error).__name__}: {error}"}
            if setting.cuda:
                torch.cuda.empty_cache()
        print(f"{part} {shape}: {json.dumps({k: v for k, v in results[shape].items() if k != 'samples'})}")
        stored: Result = {"measured": about, "shapes": results}
        if part == "curves":
            fits = {name: LatencyModel.from_json(r["model"]) for name, r in results.items() if "model" in r}
            stored["profile"] = profile_json(fits, about)
        report["parts"][part] = stored
        write_results(out, report, about)


def mark_not_run(parts: list[str], out: Path, reason: str) -> None:
    """Write the reason into the file, for parts of which it has no figures."""
    report = read_results(out) if out.exists() else {}
    for part in parts:
        if "shapes" not in report.setdefault("parts", {}).get(part, {}):
            report["parts"][part] = {"not_run": reason}
    write_results(out, report, measured(packages=PACKAGES))


def arguments(given: list[str] | None) -> argparse.Namespace:
    about = "\n".join(
        [
            "parts:",
            *(f"  {part:<12} {(measure.__doc__ or '').splitlines()[0]}" for part, measure in PARTS.items()),
            "",
            "Each part and shape is written to the file when it is done. Run again, the suite goes on where it",
            "stopped, as long as machine and versions are the same. A whole run on a card:",
            "",
            "  for part in " + " ".join(PARTS) + "; do python benchmarks/gpu_suite.py --part $part; done",
            "",
            "The latency models that `curves` fits are a profile: `rankfleet` reads parts.curves.profile once it is",
            "saved to a file of its own (python -c \"import json; print(json.dumps(json.load(open('F'))['parts']",
            "['curves']['profile']))\" > profile.json).",
        ]
    )
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated (all)")
    parser.add_argument("--shapes", default=",".join(ETTIN), help="comma-separated: %(default)s, or tiny")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (%(default)s)")
    parser.add_argument("--backend", help="of attention: triton, torch-varlen, flash-attn or sdpa (the best)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/gpu_suite.json", help="%(default)s")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(tempfile.gettempdir()) / "rankfleet-random-models",
        help="where random checkpoints are kept between runs, 7 GB for all shapes (%(default)s)",
    )
    parser.add_argument(
        "--max-s", type=float, default=480.0, help="start no further shape after this many seconds of a part"
    )
    parser.add_argument("--quick", action="store_true", help="few pairs and runs, to try the suite")
    parser.add_argument("--again", action="store_true", help="measure again what the file has already")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    parts, shapes = list(options.part or PARTS), options.shapes.split(",")
    if unknown := set(shapes) - set(SHAPES):
        raise SystemExit(f"no shape {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        mark_not_run(parts, options.json, "no CUDA device")
        print(f"no CUDA device; {options.json} says so")
        return
    setting = Setting(device, options.quick, options.backend)
    for part in parts:
        run_part(part, shapes, setting, options.json, options.models, options.max_s, options.again)
    for what, bound, verdict in beside_goals(read_results(options.json)):
        print(f"goal: {what} {bound}: {verdict}")


if __name__ == "__main__":
    main()
