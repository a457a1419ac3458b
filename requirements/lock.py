"""Writes the lock files beside it: all packages of an installation, with the hashes that the package index publishes.

Versions are those of constraints.txt. `make lock` runs this after a change of constraints.txt or pyproject.toml.

- `serve.txt`: Rankfleet without extras, and setuptools, which builds it
- `search.txt`, `dev.txt`, `bench.txt`: the extra of that name; each adds to the file before it
- `torch.txt`: PyTorch as PyPI has it, which is for CUDA, and what this build alone needs
"""

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
COMMAND = [
    *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"),
    *("--constraint", "constraints.txt", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"),
]
TRITON = "triton"  # PyTorch for CUDA brings it; without CUDA only the tests use it, to interpret its kernels
# uv resolves for all systems. Packages that none of these installs are left out.
SYSTEMS = [
    {"sys_platform": system, "python_full_version": f"{python}.0", "python_version": python}
    for system in ("linux", "darwin")
    for python in ("3.11", "3.12", "3.13")
]


def resolved(*extras: str) -> dict[str, str]:
    """What Rankfleet with these extras needs: by name of the package, the lines that pin it and list its hashes.

    Raises CalledProcessError if the pinned versions contradict each other."""
    options = [option for extra in extras for option in ("--extra", extra)]
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    packages: dict[str, str] = {}
    name = ""
    for line in done.stdout.splitlines(keepends=True):
        if not line.startswith(" "):
            requirement = Requirement(line.strip(" \\\n"))
            name = canonicalize_name(requirement.name)
            marker = requirement.marker
            packages[name] = ""
            wanted = marker is None or any(marker.evaluate(system) for system in SYSTEMS)
        packages[name] += line if wanted else ""
    return {name: lines for name, lines in packages.items() if lines}


def main() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in constraints}
    serve = resolved()
    # constraints.txt is of a build of PyTorch for CPUs: what it does not pin is CUDA's.
    torch = {name: lines for name, lines in serve.items() if name in ("torch", TRITON) or name not in pinned}
    (FOLDER / "torch.txt").write_text("".join(torch.values()))
    listed, first_line = set(torch), ""
    for file, extras in {"serve": (), "search": ("search",), "dev": ("dev",), "bench": ("dev", "bench")}.items():
        if file == "dev":
            listed.remove(TRITON)
        added = {name: lines for name, lines in resolved(*extras).items() if name not in listed}
        if unpinned := added.keys() - pinned:
            sys.exit(f"{file}.txt: constraints.txt does not pin {', '.join(sorted(unpinned))}")
        (FOLDER / f"{file}.txt").write_text(first_line + "".join(added.values()))
        listed |= added.keys()
        first_line = f"-r {file}.txt\n"


if __name__ == "__main__":
    main()
