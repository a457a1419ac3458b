"""The compiled kernels: shared libraries that were built with the package, chosen by this processor's instructions."""

import ctypes
import grp
import logging
import os
import pwd
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rankfleet.core.errors import UnsafeKernels
from rankfleet.engine.native.build import FOLDER, SOURCES, VARIANTS, Variant

__all__ = ["SOURCES", "Library", "cpu_flags", "kernel_files", "library"]

log = logging.getLogger("rankfleet")

# Linux on x86-64: the number of the system call arch_prctl, its request for a part of a processor's registers, and that
# of AMX's.
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18


@dataclass(frozen=True)
class Library:
    """`forward`: the C function `rankfleet_forward` of each precision that can be computed in here."""

    forward: Mapping[str, "ctypes._NamedFuncPointer"]

    @property
    def dtypes(self) -> Collection[str]:
        return self.forward.keys()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Names of this processor's instruction sets; empty if Linux does not list them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def cache_folder() -> Path:
    """The folder for what is measured once: $RANKFLEET_CACHE, else the user's cache folder. Raises OSError if there is
    neither."""
    if named := os.environ.get("RANKFLEET_CACHE"):
        return Path(named)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:  # a container's user may have no home
        raise OSError("no home folder to keep them in; set RANKFLEET_CACHE to a folder") from error
    return Path(base) / "rankfleet"


def best_variants(flags: frozenset[str]) -> dict[str, Variant]:
    """The best variant of each precision that can be computed with these instruction sets."""
    return {variant.dtype: variant for variant in VARIANTS if flags.issuperset(variant.instructions)}


def allowed_flags() -> frozenset[str]:
    """`cpu_flags` without those that the kernel of the system does not let this process use. AMX's registers have to be
    asked for, once in a process."""
    flags = cpu_flags()
    if "amx_tile" in flags:
        refused = ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
        if refused:
            log.info("AMX is not used: this system does not allow it")
            return without_amx(flags)
    return flags


def without_amx(flags: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in flags if not name.startswith("amx"))


@cache
def kernel_files() -> dict[str, Path]:
    """The libraries that run here, by precision; none, with a logged reason, if they cannot run or were not built.

    Raises UnsafeKernels.
    """
    flags = allowed_flags()
    best = best_variants(flags).values()
    if not all(variant.file.exists() for variant in best):  # compilers from before 2021 do not know AMX
        best = best_variants(without_amx(flags)).values()
    return find_files(best, FOLDER)


def find_files(variants: Iterable[Variant], folder: Path) -> dict[str, Path]:
    """The library of each variant in a folder, by precision. See `kernel_files`."""
    files = {variant.dtype: folder / f"{variant.name}.so" for variant in variants}
    if not files:
        log.info("no compiled kernels: they need a processor with AVX-512; using PyTorch's operations")
    elif not all(path.exists() for path in files.values()):
        log.warning(
            "no compiled kernels, so scores take about twice the time: Rankfleet was installed without a C++ compiler, "
            "or its sources have changed since; install g++ and then Rankfleet again"
        )
        return {}
    for path in files.values():
        check_owner(path)
    return files


def check_owner(path: Path) -> None:
    """Raises UnsafeKernels if someone other than root and this user may change a file, or put another in its place."""
    real = path.resolve()
    for checked in (real.parent, real):
        if fault := why_unsafe(checked.stat(), os.getuid()):
            raise UnsafeKernels(f"{checked} {fault.format(checked)}; code that others may have written is not run")


def why_unsafe(found: os.stat_result, user: int) -> str:
    """Why a file is not this user's and root's alone, and what to do, as the end of a sentence; empty if it is. `{}`
    stands for the path."""
    if found.st_uid not in (0, user):
        return f"belongs to user {found.st_uid}: install Rankfleet as the user that runs it, or as root"
    if found.st_mode & 0o002 or (found.st_mode & 0o020 and not is_private(found.st_gid, found.st_uid)):
        return "can be written by others: chmod go-w {}"
    return ""


def is_private(group: int, owner: int) -> bool:
    """Whether this is the owner's own group without other members, which many systems give to each user."""
    try:
        members, user = grp.getgrgid(group), pwd.getpwuid(owner)
    except KeyError:
        return False
    return members.gr_name == user.pw_name and user.pw_gid == group and not {*members.gr_mem} - {user.pw_name}


@cache
def library() -> Library | None:
    """The kernels; None, with a logged reason, if there are none for this processor. Raises UnsafeKernels."""
    if not (files := kernel_files()):
        return None
    try:
        load_openmp()
        forward = {dtype: ctypes.CDLL(str(path)).rankfleet_forward for dtype, path in files.items()}
    except OSError as error:
        log.warning("no compiled kernels (%s), so scores take about twice the time", error)
        return None
    for function in forward.values():
        function.restype = None
    return Library(forward)


def load_openmp() -> None:
    """Give the kernels PyTorch's own OpenMP runtime, or the system's if it has none, so that both share one thread
    pool: the idle threads of a second one would take cores from the first. Raises OSError if there is neither."""
    import torch

    root = Path(torch.__file__).parent
    found = [path for folder in (root / "lib", root.parent / "torch.libs") for path in folder.glob("libgomp*")]
    ctypes.CDLL(str(found[0]) if found else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
