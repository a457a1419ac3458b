"""Result files: figures as JSON, with the date, machine, versions and command that they were measured with.

    {"measured": {"date": "2026-11-24", "machine": "AMD EPYC (2 cores)", "versions": {"python": …}, "command": …}, …}

A value of `measured` that is not known is null. Files that several runs fill have the last run's at the top, and each
part that was measured at another time has its own.
"""

import datetime
import json
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rankfleet.bench.machine import cpu_name

KEYS = ("date", "machine", "versions", "command")
PACKAGES = ("rankfleet", "ray", "torch", "transformers", "tokenizers", "numpy")  # versions that can move any figure

# In indented JSON. Strings hold no line breaks there, and lists with brackets in a string stay as they are.
PLAIN_LIST = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")
LINE_BREAK = re.compile(r",\n\s+")


def measured(machine: str | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Date, machine, versions and command of this process.

    machine: name of the device that was measured, the CPU by default; packages: whose versions are named beside
    Python's and those of PACKAGES.
    """
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine or cpu_name(),
        "versions": {"python": platform.python_version(), **installed((*PACKAGES, *packages))},
        "command": command_line(sys.orig_argv, Path.cwd()),
    }


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_line(argv: Sequence[str], folder: Path) -> str:
    """The command as one would type it in `folder`.

    The interpreter is named without its path, files in `folder` by their relative path, and files elsewhere by their
    last part, so that results do not show how a machine is laid out.
    """
    _, *words = argv
    if words and Path(words[0]).name == "rankfleet":
        words[0] = "rankfleet"
    else:
        words = ["python", *words]
    return shlex.join(short_path(word, folder) for word in words)


def short_path(word: str, folder: Path) -> str:
    """An absolute path relative to `folder`, or its last part where it lies elsewhere; any other word as it is."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def write_results(path: Path, figures: Mapping[str, Any], measured: Mapping[str, Any], merge: bool = False) -> None:
    """Write figures with what they were measured with; the folder is made where it is missing.

    merge: keep the other keys of a file that is there. Raises ValueError for a figure that is not finite.
    """
    kept = read_results(path) if merge and path.exists() else {}
    whole = {**kept, **figures, "measured": dict(measured)}
    write_json(path, {"measured": whole.pop("measured"), **whole})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write one JSON object, indented, lists of plain values on one line. Raises ValueError for a number that is not
    finite."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    text = PLAIN_LIST.sub(lambda found: f"[{LINE_BREAK.sub(', ', found[1])}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """The JSON object of a result file."""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored
