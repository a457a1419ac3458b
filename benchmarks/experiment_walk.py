"""Run every command of docs/experiments.md, "From question to verdict", and keep what it prints.

    DATA=FOLDER python -m benchmarks.experiment_walk      writes benchmarks/results/experiment_walk.json

FOLDER holds a judged collection, as for `rankfleet evaluate`.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from benchmarks.paths import ROOT, result_file
from benchmarks.server_process import RANKFLEET, environment, serving

from rankfleet.bench.results import measured, read_results, write_results
from rankfleet.cluster.environment import free_port

PAGE = ROOT / "docs/experiments.md"
EXPERIMENT = "size"


def section() -> str:
    """The walk-through."""
    text = PAGE.read_text(encoding="utf-8")
    return re.split(r"^## ", text, flags=re.MULTILINE)[1]


def blocks(language: str) -> list[str]:
    """The code blocks of the walk-through in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


def arguments(command: str, data: Path, port: int, requests: float) -> list[str]:
    """A command of the page as it is run here: against the fleet on this port, with a share of the requests."""
    words = shlex.split(command.replace("$DATA", shlex.quote(str(data))))
    if words[0] == "python":
        place = words.index("--requests") + 1
        words[place] = str(round(int(words[place]) * requests))
        return [sys.executable, *words[1:], "--url", f"http://127.0.0.1:{port}"]
    if words[1] == "serve" or words[2] in ("status", "set", "stop"):
        words += ["--port", str(port)]
    return RANKFLEET + words[1:]


def add_step(printed: str, fleet_file: Path) -> None:
    """What the page says to do after `set`: add the step that it printed."""
    step = yaml.safe_load(re.findall(r"^\s*- (\{at: .*\})$", printed, flags=re.MULTILINE)[-1])
    settings = yaml.safe_load(fleet_file.read_text(encoding="utf-8"))
    step["at"] = step["at"].isoformat() if hasattr(step["at"], "isoformat") else step["at"]
    settings["experiments"][EXPERIMENT].setdefault("schedule", []).append(step)
    fleet_file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def walk(data: Path, requests: float = 1.0) -> dict[str, Any]:
    """Run all commands. requests: share of those on the page. Returns what each printed, and the report's figures."""
    port, printed = free_port(), []
    first, *rest = commands()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet_file, figures = folder / "size.yaml", folder / "report.json"
        (text,) = blocks("yaml")
        fleet_file.write_text(text, encoding="utf-8")
        with serving(arguments(first, data, port, requests), folder):
            for command in rest:
                words = arguments(command, data, port, requests)
                if " report " in command:
                    words += ["--json", str(figures)]
                done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                print(command, done.stdout, done.stderr, sep="\n", file=sys.stderr)
                printed.append({"command": command, "printed": done.stdout})
                if " set " in command:
                    add_step(done.stderr, fleet_file)
        return {"printed": printed, "report": read_results(figures)}


if __name__ == "__main__":
    write_results(
        result_file("experiment_walk"), walk(Path(os.environ["DATA"])), measured(packages=["scipy", "duckdb"])
    )
