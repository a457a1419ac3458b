"""Compiles the kernels: one shared library for each precision and set of instructions. `setup.py` does this when the
package is installed, before any other package is there."""

import hashlib
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("*.?pp"))
BASE = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma")
# One library for each variant, and not one for all, since a linker may keep any one of several copies of a function:
# also the one that was compiled for instructions that a processor lacks. `-fopenmp` only when compiling: the OpenMP
# runtime is the one that PyTorch brings (library.py).
OPTIONS = ("-std=c++20", "-O3", "-fopenmp", "-fPIC")


@dataclass(frozen=True)
class Variant:
    """A library that computes in `dtype`, on processors that have these instruction sets, by their names in
    /proc/cpuinfo. `attention`: the precision of attention."""

    dtype: str
    attention: str
    instructions: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        """What the compiler is given."""
        flags = [f"-m{name.replace('_', '-' if name.startswith('amx') else '')}" for name in self.instructions]
        return [*OPTIONS, *flags, f"-DWEIGHTS={self.dtype.title()}", f"-DATTENTION={self.attention.title()}"]

    @property
    def name(self) -> str:
        """Name of its file without `.so`. It ends with a digest of the sources and options, so that a library that was
        built from others is not taken for this one."""
        source = b"\0".join(path.read_bytes() for path in SOURCES)
        digest = hashlib.sha256(source + " ".join(self.options).encode()).hexdigest()[:12]
        return f"{self.dtype}-{self.attention}-{digest}"

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.name}.so"


# Where several of one precision can run, the last one is the fastest.
VARIANTS = (
    Variant("float32", "float32", BASE),
    Variant("bfloat16", "bfloat16", (*BASE, "avx512_bf16")),
    Variant("int8", "float32", (*BASE, "avx512_vnni")),
    Variant("int8", "bfloat16", (*BASE, "avx512_vnni", "avx512_bf16")),
    Variant("bfloat16", "bfloat16", (*BASE, "avx512_bf16", "amx_tile", "amx_bf16")),
    Variant("int8", "bfloat16", (*BASE, "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")),
)


def compile_variant(variant: Variant, path: Path) -> None:
    """Compile a variant into this file, whose folder is created. Raises OSError if there is no compiler or it fails."""
    found = [program for name in ("g++", "clang++") if (program := shutil.which(name))]
    compiler = shlex.split(os.environ.get("CXX", "")) or found[:1]
    if not compiler:
        raise FileNotFoundError("no C++ compiler found; install g++ or set CXX")
    path.parent.mkdir(parents=True, exist_ok=True)
    source, unlinked = next(path for path in SOURCES if path.suffix == ".cpp"), path.with_suffix(".o")
    steps = [*variant.options, "-c", str(source), "-o", str(unlinked)], ["-shared", str(unlinked), "-o", str(path)]
    try:
        for step in steps:
            done = subprocess.run([*compiler, *step], capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{compiler[0]} failed: {done.stderr.strip()[:500]}")
    finally:
        unlinked.unlink(missing_ok=True)
