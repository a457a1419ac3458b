"""The compiled kernels: which run on a processor, how they are built, and from whose files they are loaded."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankfleet.core.errors import UnsafeKernels
from rankfleet.engine.native import build, library

BASE = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"})
FLOAT32, BFLOAT16, INT8, INT8_BFLOAT16, BFLOAT16_AMX, INT8_AMX = build.VARIANTS


@pytest.mark.parametrize(
    ("flags", "variants"),
    [
        ({"avx2", "fma"}, {}),
        (BASE, {"float32": FLOAT32}),
        (BASE | {"avx512_vnni"}, {"float32": FLOAT32, "int8": INT8}),
        (
            BASE | {"avx512_bf16", "avx512_vnni"},
            {"float32": FLOAT32, "bfloat16": BFLOAT16, "int8": INT8_BFLOAT16},
        ),
        (
            BASE | {"avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"},
            {"float32": FLOAT32, "bfloat16": BFLOAT16_AMX, "int8": INT8_AMX},
        ),
    ],
    ids=["AVX2", "AVX-512", "VNNI", "BF16 and VNNI", "AMX"],
)
def test_instruction_sets_decide_which_kernels_run(flags: set[str], variants: dict[str, build.Variant]) -> None:
    assert library.best_variants(frozenset(flags)) == variants


def test_instruction_sets_are_read_from_the_first_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: x\nflags\t\t: fpu sse2 avx512f\nflags\t\t: other\n")
    assert library.cpu_flags(cpuinfo) == {"fpu", "sse2", "avx512f"}
    assert library.cpu_flags(tmp_path / "absent") == set()


def test_the_compiler_gets_the_instruction_sets_and_element_types() -> None:
    assert INT8_BFLOAT16.options[4:] == [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mfma",
        "-mavx512vnni",
        "-mavx512bf16",
        "-DWEIGHTS=Int8",
        "-DATTENTION=Bfloat16",
    ]


def test_amx_is_used_only_where_the_system_lets_this_process_have_its_registers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flags = BASE | {"avx512_bf16", "amx_tile", "amx_bf16"}
    monkeypatch.setattr(library, "cpu_flags", lambda: flags)
    for refused, allowed in ((0, flags), (-1, BASE | {"avx512_bf16"})):
        monkeypatch.setattr(
            library.ctypes, "CDLL", lambda _, answer=refused: SimpleNamespace(syscall=lambda *_: answer)
        )
        with caplog.at_level("INFO", "rankfleet"):
            assert library.allowed_flags() == allowed
    assert caplog.text.count("AMX is not used") == 1
    assert "-mamx-bf16" in BFLOAT16_AMX.options


def test_other_sources_have_other_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {variant.name for variant in build.VARIANTS}
    (tmp_path / "changed.cpp").write_text("// changed")
    monkeypatch.setattr(build, "SOURCES", [tmp_path / "changed.cpp"])
    assert len(names | {variant.name for variant in build.VARIANTS}) == 12


@pytest.mark.parametrize(
    ("compiler", "path", "reason"),
    [
        ("", "", "install g\\+\\+ or set CXX"),
        ("/nothing/g++", "", "No such file"),
        ("false", os.defpath, "false failed"),
    ],
)
def test_why_kernels_are_not_built(
    compiler: str, path: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("PATH", path)
    with pytest.raises(OSError, match=reason):
        build.compile_variant(FLOAT32, tmp_path / "new" / "kernels.so")


def test_kernels_that_were_not_built_are_missed_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{FLOAT32.name}.so").touch(0o755)
    assert library.find_files([FLOAT32, INT8], tmp_path) == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "install g++ and then Rankfleet again" in record.getMessage()


def test_a_processor_without_avx512_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert library.find_files([], tmp_path) == {}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("unsafe", ["file", "folder", "target of a link"])
def test_kernels_that_others_can_write_are_refused(unsafe: str, tmp_path: Path) -> None:
    folder = tmp_path / "native"
    folder.mkdir(0o755)
    file = folder / f"{FLOAT32.name}.so"
    file.touch(0o755)
    assert library.find_files([FLOAT32], folder) == {"float32": file}
    changed = {"file": file, "folder": folder}.get(unsafe)
    if changed is None:
        changed = tmp_path / "elsewhere.so"
        changed.touch(0o755)
        file.unlink()
        file.symlink_to(changed)
    changed.chmod(changed.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(UnsafeKernels, match=f"^{changed} can be written by others: chmod go-w {changed};"):
        library.find_files([FLOAT32], folder)


def found(mode: int, user: int, group: int = 0) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, user, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "user", "group", "fault"),
    [
        (0o755, 0, 0, ""),
        (0o755, 1000, 0, ""),
        (0o755, 1001, 0, "belongs to user 1001"),
        (0o757, 0, 0, "can be written by others"),
        (0o775, 1000, 54321, "can be written by others"),  # a group that the system does not know
        (0o775, 0, 1, "can be written by others"),  # root's file, another group
        (0o775, 0, 0, ""),  # root's own group, which has no other members
    ],
)
def test_files_of_root_and_of_this_user_are_safe(mode: int, user: int, group: int, fault: str) -> None:
    assert library.why_unsafe(found(mode, user, group), user=1000).startswith(fault)
    assert bool(library.why_unsafe(found(mode, user, group), user=1000)) == bool(fault)


def test_the_cache_folder_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RANKFLEET_CACHE", raising=False)
    with pytest.raises(OSError, match="set RANKFLEET_CACHE"):
        library.cache_folder()
    monkeypatch.setenv("RANKFLEET_CACHE", "/somewhere")
    assert library.cache_folder() == Path("/somewhere")
