"""Figures of the comparison: by server and cell, and the ratios that the goals are about."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.servers.load import Burst, Cell

from rankfleet.bench.traffic import quantile

PEERS = ("infinity", "vllm")  # servers that the goals are set against; each counts in its faster precision
GOALS = {"auto": 2.3, "int8": 5.0}  # smallest ratio to the better of PEERS
GOAL_CELLS = (Cell(1, 100).name, Cell(8, 20).name)


def cell_figures(bursts: Sequence[Burst]) -> dict[str, Any]:
    """The figures of one server in one cell: the median rate of its rounds, and latencies over all of them in ms."""
    took_ms = [ms for burst in bursts for ms in burst.took_ms]
    rates = [round(burst.pairs_per_s, 1) for burst in bursts]
    return {
        "pairs_per_s": round(statistics.median(rates), 1),
        "p50_ms": quantile(took_ms, 0.5),
        "p99_ms": quantile(took_ms, 0.99),
        "requests": len(took_ms),
        "failed": sum(burst.failed for burst in bursts),
        "by_round": rates,
    }


def is_right(server: Mapping[str, Any]) -> bool:
    """Whether a server was measured and gave the scores of the model."""
    return "cells" in server and "wrong" not in server["scores"]


def ratios(servers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By precision of Rankfleet and by cell: its pairs/s ÷ those of the better of PEERS; `lowest`: of GOAL_CELLS.

    A peer with wrong scores does not count, and neither does a precision of Rankfleet with wrong ones.
    """
    right = {name: server["cells"] for name, server in servers.items() if is_right(server)}
    found: dict[str, Any] = {}
    for name, own in right.items():
        product, _, dtype = name.partition(" ")
        if product != "rankfleet":
            continue
        best = {
            cell: max((c[cell]["pairs_per_s"] for n, c in right.items() if n.startswith(PEERS)), default=None)
            for cell in own
        }
        by_cell = {cell: round(own[cell]["pairs_per_s"] / rate, 2) for cell, rate in best.items() if rate}
        if counted := [by_cell[cell] for cell in GOAL_CELLS if cell in by_cell]:
            found[dtype] = {**by_cell, "lowest": min(counted)}
    return found
