"""Where benchmarks find the repository and keep their results."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"


def result_file(name: str) -> Path:
    return RESULTS / f"{name}.json"
