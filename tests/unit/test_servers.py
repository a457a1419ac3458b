"""Whole servers side by side: what peers are asked, how replies are read, and the ratios of the goals."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.figures.servers import table
from benchmarks.servers.contestants import CONTESTANTS, Contestant, Place
from benchmarks.servers.environments import needed
from benchmarks.servers.load import Burst, Cell, write_requests
from benchmarks.servers.report import cell_figures, ratios

each = pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)


@each
def test_raw_logits_are_read_in_the_order_of_the_documents(contestant: Contestant) -> None:
    key = "logit" if contestant.name.startswith("rankfleet") else "relevance_score"
    reply = {"results": [{"index": 1, key: 2.5, "document": {"text": "b"}}, {"index": 0, key: -1.0}]}
    assert contestant.scores(json.dumps(reply).encode()) == [-1.0, 2.5]


def test_peers_are_asked_for_raw_logits() -> None:
    asked = {c.name: json.loads(c.body("q", ["a", "b"])) for c in CONTESTANTS}
    assert asked["vllm float32"]["use_activation"] is False
    assert asked["infinity bfloat16"]["raw_scores"] is True
    assert all(body["query"] == "q" and body["documents"] == ["a", "b"] for body in asked.values())


@each
def test_servers_listen_on_this_machine_alone_and_take_all_threads(contestant: Contestant, tmp_path: Path) -> None:
    place = Place(Path("/model"), Path("/environments"), tmp_path, 8123, 2)
    command = contestant.command(place)
    assert "8123" in command
    if contestant.environment:
        assert command[0].startswith(f"/environments/{contestant.environment}/bin/")
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert command[command.index("--dtype") + 1] == contestant.dtype
        variables = contestant.variables(place)
        assert variables.get("OMP_NUM_THREADS") == "2" or variables["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    elif contestant.name.startswith("rankfleet"):
        fleet = Path(command[command.index("--config") + 1]).read_text()
        assert f"dtype: {contestant.dtype}" in fleet
        assert "threads: 2" in fleet


def test_requirements_of_other_builds_and_extras_are_left_out() -> None:
    requirements = [
        "regex",
        "fastapi[standard]<0.137,>=0.133",
        "torch==2.13.0+cpu; platform_machine == 'x86_64'",
        "torchaudio",
        "scipy; extra == 'audio'",
        "windows-only; sys_platform == 'win32'",
    ]
    assert needed(requirements) == ["regex", "fastapi[standard]<0.137,>=0.133"]


def test_a_cell_has_the_median_rate_and_latencies_of_all_rounds() -> None:
    # Rates of the rounds: 20 · 2 / 4 = 10, 20 · 1 / 1 = 20 and 20 · 3 / 2 = 30.
    bursts = [Burst(20, 4.0, [100.0, 300.0], 0), Burst(20, 1.0, [200.0], 1), Burst(20, 2.0, [400.0, 500.0, 600.0], 0)]
    figures = cell_figures(bursts)
    assert figures["pairs_per_s"] == 20.0
    assert figures["by_round"] == [10.0, 20.0, 30.0]
    assert (figures["p50_ms"], figures["requests"], figures["failed"]) == (350.0, 6, 1)
    assert figures["p99_ms"] == 595.0  # 0.95 of the way from the fifth to the sixth


def server(one: float, eight: float, **scores: str) -> dict[str, Any]:
    return {"scores": scores, "cells": {"1 × 100": {"pairs_per_s": one}, "8 × 20": {"pairs_per_s": eight}}}


def test_ratios_are_to_the_better_peer_in_its_faster_precision() -> None:
    servers = {
        "rankfleet auto": server(300, 240),
        "rankfleet int8": {"not_run": "no VNNI"},
        "infinity float32": server(50, 80),
        "infinity bfloat16": server(60, 40),
        "vllm float32": server(100, 70),
        "bare serve float32": server(1000, 1000),  # no peer of the goals
    }
    assert ratios(servers) == {"auto": {"1 × 100": 3.0, "8 × 20": 3.0, "lowest": 3.0}}


def test_nobody_wins_by_being_wrong() -> None:
    servers = {
        "rankfleet auto": server(300, 240),
        "rankfleet int8": server(900, 900, wrong="another order"),
        "infinity float32": server(100, 120),
        "vllm float32": server(5000, 5000, wrong="another order"),
    }
    assert ratios(servers) == {"auto": {"1 × 100": 3.0, "8 × 20": 2.0, "lowest": 2.0}}


def test_a_cell_has_requests_of_its_size_with_texts_of_their_own() -> None:
    requests = write_requests(Cell(8, 20), lambda text: len(text.split()), 3)
    assert {len(request.documents) for request in requests} == {20}
    assert len({request.query for request in requests}) == len(requests) == 40
    assert write_requests(Cell(8, 20), lambda text: len(text.split()), 3) == requests


def test_a_processors_table_names_servers_that_were_wrong_or_did_not_run() -> None:
    def cells(rate: float) -> dict[str, Any]:
        return {"1 × 100": {"pairs_per_s": rate, "p50_ms": 250.4, "p99_ms": 300.0}}

    right = {"max_abs_difference": 0.01}
    figures = {
        "measured": {"date": "2026-11-26", "machine": "A (2 cores)", "versions": {"rankfleet": "0.1.0"}},
        **{"threads": 2, "rounds": 3, "seconds": 10.0, "undisturbed": False},
        "ratio": {"auto": {"1 × 100": 4.0, "lowest": 4.0}, "float32": {"1 × 100": 2.5, "lowest": 2.5}},
        "servers": {
            "rankfleet auto": {"scores": right, "cells": cells(400.0)},
            "infinity float32": {"scores": right, "cells": cells(100.0), "versions": {"infinity-emb": "0.0.78"}},
            "vllm float32": {"scores": right | {"wrong": "another order"}, "cells": cells(900.0)},
            "vllm bfloat16": {"not_run": "did not answer in time"},
        },
    }
    assert table(figures).splitlines()[2:] == [
        "| **rankfleet auto** | 400, 250 / 300 | 0.0100 |",
        "| infinity float32 | 100, 250 / 300 | 0.0100 |",
        "| vllm float32 | wrong scores | wrong scores |",
        "| vllm bfloat16 | not run | not run |",
        "",
        "2026-11-26, A (2 cores), 2 threads, median of 3 × 10 s, other load on the machine. "
        "infinity-emb 0.0.78, rankfleet 0.1.0.",
        "",
        "Rankfleet ÷ the better of infinity and vLLM, the lower of the first two columns: auto 4.0× (goal 2.3×); "
        "float32 2.5×.",
    ]
