"""The compiled kernels as a shared library: built once for this processor's instructions, then read from the cache."""

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger("rankfleet")

SOURCES = sorted(Path(__file__).parent.glob("*.?pp"))
REQUIRED = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma")
OPTIONAL = {"avx512_bf16": "avx512bf16", "avx512_vnni": "avx512vnni"}  # /proc/cpuinfo's name → the compiler's


@dataclass(frozen=True)
class Library:
    """`forward`: the C function `rankfleet_forward`. `dtypes`: the precisions that it can compute in here."""

    forward: "ctypes._NamedFuncPointer"
    dtypes: frozenset[str]


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Names of this processor's instruction sets; empty if Linux does not list them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def cache_folder() -> Path:
    """The folder for compiled kernels: $RANKFLEET_CACHE, else the user's cache folder. Raises OSError if there is
    neither."""
    if named := os.environ.get("RANKFLEET_CACHE"):
        return Path(named)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:  # a container's user may have no home
        raise OSError("no home folder to keep them in; set RANKFLEET_CACHE to a folder") from error
    return Path(base) / "rankfleet"


def supported_dtypes(flags: frozenset[str]) -> frozenset[str]:
    """The precisions that can be computed with these instruction sets."""
    if not flags.issuperset(REQUIRED):
        return frozenset()
    also = {"bfloat16": "avx512_bf16", "int8": "avx512_vnni"}
    return frozenset({"float32", *(dtype for dtype, flag in also.items() if flag in flags)})


@cache
def library() -> Library | None:
    """The kernels; None, with a logged reason, if they cannot run here or cannot be built."""
    flags = cpu_flags()
    dtypes = supported_dtypes(flags)
    if not dtypes:
        log.info("no compiled kernels: they need a processor with AVX-512; using PyTorch's operations")
        return None
    options = [f"-m{f}" for f in REQUIRED] + [f"-m{name}" for flag, name in OPTIONAL.items() if flag in flags]
    try:
        forward = load(options, cache_folder()).rankfleet_forward
    except (OSError, ValueError) as error:  # ValueError: unbalanced quotes in CXX
        log.warning("no compiled kernels (%s); using PyTorch's operations, which take about twice the time", error)
        return None
    forward.restype = None
    return Library(forward, dtypes)


def load(options: list[str], folder: Path) -> ctypes.CDLL:
    """The library for these compiler options. One in the cache that cannot be loaded is built again."""
    path = compiled(options, folder)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        log.warning("compiling the CPU kernels again: %s", error)
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(compiled(options, folder)))


def compiled(options: list[str], folder: Path) -> Path:
    """The path of the library for these compiler options, built unless the folder holds it already.

    Raises OSError if there is no compiler, it fails, or the folder cannot be written.
    """
    found = [program for name in ("g++", "clang++") if (program := shutil.which(name))]
    compiler = shlex.split(os.environ.get("CXX", "")) or found[:1]
    source = b"\0".join(path.read_bytes() for path in SOURCES)
    threads = openmp()  # part of the key: with another PyTorch it has another path
    command = ["-std=c++20", "-O3", "-fopenmp", "-fPIC", "-shared", *options]
    key = hashlib.sha256(source + " ".join([*command, *threads]).encode()).hexdigest()[:20]
    path = folder / f"kernels-{key}.so"
    if os.path.exists(path):  # unlike Path.exists(), False in a folder without read permission
        return path
    if not compiler:
        raise FileNotFoundError("no C++ compiler found; install g++ or set CXX")
    log.info("compiling the CPU kernels into %s", folder)
    with scratch_in(folder) as scratch:
        built = Path(scratch) / "kernels.so"
        main = next(str(path) for path in SOURCES if path.suffix == ".cpp")
        done = subprocess.run([*compiler, *command, main, *threads, "-o", str(built)], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{compiler[0]} failed: {done.stderr.strip()[:500]}")
        os.replace(built, path)  # several replicas may build at once: all write the same file
    return path


def scratch_in(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder inside, to build in. Raises OSError that says what to set if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{folder} cannot be written: {why}; set RANKFLEET_CACHE to a folder that can") from error


def openmp() -> list[str]:
    """PyTorch's own OpenMP library, so that both share one thread pool; empty, for the system's, if it has none."""
    import torch

    root = Path(torch.__file__).parent
    return [str(path) for folder in (root / "lib", root.parent / "torch.libs") for path in folder.glob("libgomp*")][:1]
