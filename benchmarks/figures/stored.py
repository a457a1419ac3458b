"""Result files as figures read them, and the words in which captions name their conditions."""

from functools import cache
from typing import Any

from benchmarks.paths import result_file

from rankfleet.bench.results import read_results

NOT_RECORDED = "not recorded"


@cache
def stored(name: str) -> dict[str, Any]:
    """A result file. Read once; not to be changed."""
    return read_results(result_file(name))


def by_processor(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Processors and their figures, of a result file that has some of each that was measured."""
    return [(processor, figures) for processor, figures in stored(name).items() if processor != "measured"]


def versions(measured: dict[str, Any]) -> str:
    """`torch 2.13.0, ray 2.60.0`."""
    found = measured["versions"]
    return ", ".join(f"{name} {number}" for name, number in found.items()) if found else f"versions {NOT_RECORDED}"


def conditions(measured: dict[str, Any], *more: str) -> str:
    """Date, machine and what else a caption says, separated by commas."""
    machine = measured["machine"] or f"machine {NOT_RECORDED}"
    return ", ".join([measured["date"] or f"date {NOT_RECORDED}", machine, *more])
