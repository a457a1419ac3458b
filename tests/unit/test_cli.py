"""The command line: what people see when something is wrong."""

import json
import sys
from pathlib import Path

import pytest

from rankfleet.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rankfleet", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", ["demo", "laptop", "gpu", "fleet"])
def test_shipped_fleets_are_found_by_name(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(monkeypatch, "config", "check", name) == 0
    assert f"{name} is right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config", "check", "nothing"), "shipped are demo, fleet, gpu, laptop"),
        (("config", "check", "nothing.yaml"), "No such file"),
        (("rank", "cat"), 'rankfleet rank "query" "doc" "doc"'),
        (("rank", " ", "a"), "give a query and documents"),
        (("rank", "cat", "a", "--tier", "huge"), "no tier 'huge'; this fleet has small, medium, large"),
        (("rank", "cat", "--file", "/nothing/here"), "cannot be read as UTF-8 text"),
        (("index", "build", "/nothing/here", "--out", "x"), "neither a JSONL file nor a folder"),
        (("evaluate", "--data", "/nothing/here"), "/nothing/here"),
        (("evaluate", "--data", ".", "--tiers", "huge"), "no tier 'huge'"),
        (("simulate",), "give either --trace FILE or --arrivals"),
        (("simulate", "--arrivals", "poisson:rate=1", "--policy", "best"), "policy 'best' does not exist"),
        (("simulate", "--arrivals", "poisson:rate=1", "--fleet", "demo"), "demo names no latency profile"),
        (("simulate", "--arrivals", "poisson:rate=1", "--workload", "/nothing.yaml"), "/nothing.yaml: No such file"),
        (("plan", "-c", "demo"), "measure one with `rankfleet profile`"),
        (("plan", "--model", "huge"), "no tier 'huge'; this fleet has 17m, 32m"),
        (("bench", "engine"), "--model demo/large or --shape 17m"),
        (("bench", "engine", "--shape", "17m", "--against", "tei"), "--against tei: there are sentence-transformers"),
        (("bench", "faults", "--scenario", "kill,flood"), "--scenario flood: there are calm, kill, hang, node"),
        (("distill", "--student", "demo/small", "--data", "/nothing", "--out", "x"), "there is no file /nothing"),
    ],
)
def test_mistakes_get_one_message(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    assert run(monkeypatch, *arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error:")
    assert message in shown.replace("\n", "")
    assert "Traceback" not in shown


def test_a_wrong_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "fleet.yaml"
    path.write_text("tiers: {small: {model: demo/small, qality: 0.3}}\ngroups: {g: {tiers: [small]}}\n")
    assert run(monkeypatch, "config", "check", str(path)) == 1
    assert "tiers.small.qality: unknown key" in capsys.readouterr().err.replace("\n", "")


def test_brackets_in_a_message_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "bm25s", None)  # as if it were not installed
    path = tmp_path / "docs.jsonl"
    path.write_text('{"id": "1", "text": "a"}\n')
    assert run(monkeypatch, "index", "build", str(path), "--out", str(tmp_path / "index")) == 1
    assert "pip install 'rankfleet[search]'" in capsys.readouterr().err


def test_a_simulation_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "figures.json"
    arguments = ("simulate", "--arrivals", "poisson:rate=20", "--seconds", "5", "--json", str(path))
    assert run(monkeypatch, *arguments, "--plot", str(tmp_path / "run.png")) == 0
    figures = json.loads(path.read_text())
    assert figures["attainment"] == 1.0
    assert set(figures["classes"]) == {"tight", "interactive", "standard", "relaxed"}
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert "100.00%" in capsys.readouterr().out
    assert run(monkeypatch, *arguments, "--policy", "oracle") == 0
    assert json.loads(path.read_text())["mean_quality"] >= figures["mean_quality"]


def test_a_plan_is_explained(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(monkeypatch, "plan", "--slo-ms", "60") == 0
    shown = capsys.readouterr().out
    # 6 ms and 100 pairs at 3,237 a second.
    assert "150m  36.9" in shown
    assert "150m is the best that fits: predicted 37 of 60 ms; too slow: 1b, 400m" in shown
    assert run(monkeypatch, "plan", "--slo-ms", "10", "--when-none-fits", "refuse") == 0
    assert "refused with 422" in capsys.readouterr().out
