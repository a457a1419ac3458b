"""Compare what a request costs beside the engine where a group is hosted in the router and where it has replicas.

    python -m benchmarks.in_router run      writes benchmarks/results/in_router.json, by processor

The same fleet file with and without `in_router: true`, in turn: 20 short documents, the client's time minus the
engine's, as `rankfleet bench serve` measures it.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from benchmarks.bare_serve import CONFIG, PORT, ROUNDS, SECONDS, SETTLED_S, medians
from benchmarks.paths import result_file
from benchmarks.server_process import RANKFLEET, serving

from rankfleet.bench.results import measured, write_results
from rankfleet.bench.serve import WARM_UP_CALLS, overhead
from rankfleet.core.fleet_file import read_config


def layouts(folder: Path) -> dict[str, Path]:
    """The fleet file of each layout."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    for group in settings["groups"].values():
        group["in_router"] = True
    changed = folder / "in_router.yaml"
    changed.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return {"replicas": CONFIG, "in_router": changed}


def run(count: int, seconds: float, path: Path) -> None:
    """Measure both layouts this often, in turn. seconds: for each number of clients and each tier."""
    with tempfile.TemporaryDirectory() as folder:
        files = layouts(Path(folder))
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
        for turn in range(count):
            for name, file in files.items():
                with serving([*RANKFLEET, "serve", "--config", str(file), "--port", str(PORT)], Path(folder)):
                    time.sleep(SETTLED_S)
                    rounds[name].append(overhead(f"http://127.0.0.1:{PORT}", read_config(file), seconds, seed=1))
                print(turn, name, rounds[name][-1], flush=True)
    figures = {name: medians(found) for name, found in rounds.items()}
    about = measured()
    settings = {"measured": about, "rounds": count, "seconds": seconds, "warm_up_calls": WARM_UP_CALLS}
    write_results(path, {about["machine"]: settings | figures | {"by_round": rounds}}, about, merge=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run",))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--json", type=Path, default=result_file("in_router"))
    options = parser.parse_args()
    run(options.rounds, options.seconds, options.json)
