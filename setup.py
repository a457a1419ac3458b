"""Compiles the CPU kernels when the package is built. Everything else stands in pyproject.toml."""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SERVE = Path(__file__).resolve().parent / "serve"
sys.path.insert(0, str(SERVE))
from rankfleet.engine.native.build import SOURCES, VARIANTS, compile_variant  # noqa: E402

BY_NAME = {f"rankfleet.engine.native.{variant.name}": variant for variant in VARIANTS}


class BuildKernels(build_ext):
    """Without a compiler the package is built all the same, and one line says what it lacks."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()

    def run(self) -> None:
        self.failures: dict[str, str] = {}
        super().run()
        for lost, reason in self.failures.items():
            print(f"rankfleet: built without {lost}: {reason}")

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        variant = BY_NAME[ext.name]
        try:
            compile_variant(variant, Path(self.get_ext_fullpath(ext.name)))
        except OSError as error:
            amx = "amx_tile" in variant.instructions
            lost = "kernels for AMX" if amx else "CPU kernels, so that scores take about twice the time"
            self.failures[lost] = str(error)


sources = [str(path.relative_to(SERVE.parent)) for path in SOURCES]
setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[Extension(name, sources, optional=True) for name in BY_NAME]
    if platform.machine() in ("x86_64", "AMD64")
    else [],
    # The libraries are no Python modules: one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
