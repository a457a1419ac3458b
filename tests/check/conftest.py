"""Environments of their own for what a development environment would hide. `make check` runs these tests."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL_S = 1200
COMMAND_S = 180
# Variables that would let the environment see this checkout, or the packages of another environment.
LEAKING = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RAY_ADDRESS"}


@dataclass
class Environment:
    """A virtual environment with Rankfleet in it, and a folder outside the checkout to run commands in."""

    path: Path
    folder: Path

    @property
    def rankfleet(self) -> Path:
        return self.path / "bin" / "rankfleet"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of its commands: nothing is downloaded."""
        own = {"PATH": f"{self.path / 'bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        return {name: value for name, value in os.environ.items() if name not in LEAKING} | own

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            arguments, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=COMMAND_S
        )

    def python(self, code: str) -> str:
        """What a piece of Python prints."""
        done = self.run(self.path / "bin" / "python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout


def pip(python: str | Path, *arguments: str | Path, environment: Mapping[str, str] = os.environ) -> None:
    options = ["--disable-pip-version-check", "--quiet", "--progress-bar", "off"]
    constraints: list[str | Path] = ["--constraint", ROOT / "constraints.txt"]
    done = subprocess.run(
        [python, "-m", "pip", arguments[0], *options, *constraints, *arguments[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def copy_of_the_checkout(folder: Path) -> Path:
    """A copy inside `folder` of what git has, or would add: not of what earlier builds have left in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, folder / "source" / name
        if source.is_symlink() or source.exists():  # git lists files that were deleted and not yet committed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    return folder / "source"


def build_sdist(source: Path, folder: Path) -> Path:
    """The source distribution of a checkout, made with the setuptools that `make install` installs."""
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True, timeout=COMMAND_S)
    (built,) = folder.glob("*.tar.gz")
    return built


def build_wheel(source: Path, folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The wheel of a checkout or source distribution, made with the setuptools that `make install` installs."""
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir")
    pip(sys.executable, "wheel", *options, folder, source, environment=environment)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return build_sdist(copy_of_the_checkout(folder), folder)


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def minimal(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Rankfleet without extras, outside the checkout: its packages by their hashes, the PyTorch at hand, and the wheel.

    The last step gets no index, so that it fails if the lock file lacks a package."""
    path = tmp_path_factory.mktemp("minimal")
    environment = Environment(path / "venv", path / "folder")
    environment.folder.mkdir()
    venv.create(environment.path, symlinks=True, with_pip=True)
    python = environment.path / "bin" / "python"
    pip(python, "install", "--require-hashes", "--no-deps", "--requirement", ROOT / "requirements/serve.txt")
    pip(python, "install", "torch")
    pip(python, "install", "--no-index", wheel)
    yield environment
    shutil.rmtree(path)  # it takes about 1.5 GB
