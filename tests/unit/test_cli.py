"""The command line: what it prints, and its messages when something is wrong."""

import io
import itertools
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

import rankfleet.cli
from rankfleet.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rankfleet", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", ["demo", "laptop", "gpu", "fleet"])
def test_shipped_fleets_are_found_by_name(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(monkeypatch, "config", "check", name) == 0
    assert f"{name} is valid" in capsys.readouterr().out


def test_one_tier_is_not_called_tiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "fleet.yaml"
    path.write_text("tiers: {small: {model: demo/small, quality: 0.3}}\ngroups: {g: {tiers: [small]}}\n")
    assert run(monkeypatch, "config", "check", str(path)) == 0
    assert "1 tier in 1 group, at least 1 replica" in capsys.readouterr().out


def test_checking_a_file_downloads_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "fleet.yaml"
    path.write_text("tiers: {a: {model: nobody/nothing, quality: 0.3}}\ngroups: {g: {tiers: [a]}}\n")
    assert run(monkeypatch, "config", "check", str(path)) == 0
    assert "not checked, because they are not downloaded yet: the models of a" in capsys.readouterr().err


VERBS = {"check": ("config", "check"), "serve": ("serve", "--config"), "apply": ("apply",)}
FILES = {
    "quality: {table: none.json}": "quality.table FOLDER/none.json: No such file or directory",
    "quality: {table: table.json, data_set: mine}": "quality.data_set: 'mine' is not in FOLDER/table.json; it has a",
    "profile: none.json": "profile FOLDER/none.json: No such file or directory; write it with `rankfleet profile`",
    "profile: table.json": "profile FOLDER/table.json is not one that `rankfleet profile` wrote",
    "profile: broken.json": "profile FOLDER/broken.json is not one that `rankfleet profile` wrote",
    "search: {index: none}": "FOLDER/none is not an index; build one with",
    "MODEL": "tier small: there is no model folder at HOME/none",
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("file", FILES)
def test_all_commands_check_the_files_that_a_fleet_file_names(
    verb: str,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    model, more = ("~/none", "") if file == "MODEL" else ("demo/small", file)
    path = tmp_path / "fleet.yaml"
    group = "{tiers: [small], cpus: 0.1}"
    path.write_text(f"tiers: {{small: {{model: {model}, quality: 0.3}}}}\ngroups: {{g: {group}}}\n{more}\n")
    (tmp_path / "table.json").write_text('{"data_sets": {"a": {"tiers": {"small": 0.3}}}}')
    latency = {"alpha_ms": -1.0, "beta_ms": 1.0, "gamma_ms": 0.0, "p99_factor": 1.0}
    (tmp_path / "broken.json").write_text(json.dumps({"tiers": {"small": latency}}))
    assert run(monkeypatch, *VERBS[verb], str(path)) == 1
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    assert FILES[file].replace("FOLDER", str(tmp_path)).replace("HOME", str(tmp_path / "home")) in said


def test_without_a_terminal_each_state_is_printed_once_on_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, seconds = io.StringIO(), itertools.count(100.0, 1.5)
    monkeypatch.setattr(rankfleet.cli, "err", Console(file=shown))
    with rankfleet.cli.progress("starting", lambda: next(seconds)) as say:
        for state in ("waiting for [demo]", "waiting for [demo]", "ready", "waiting for [demo]"):
            say(state)
    assert shown.getvalue() == "  1.5 s  starting\n  3.0 s  waiting for [demo]\n  4.5 s  ready\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config", "check", "nothing"), "shipped are demo, fleet, gpu, laptop"),
        (("config", "check", "nothing.yaml"), "No such file"),
        (("rank", "cat"), 'rankfleet rank "query" "doc" "doc"'),
        (("rank", " ", "a"), "give a query and documents"),
        (("rank", "cat", "a", "--tier", "huge"), "no tier 'huge'; this fleet has small, medium, large"),
        (("rank", "cat", "--file", "/nothing/here"), "/nothing/here: No such file or directory"),
        (("index", "build", "/nothing/here", "--out", "x"), "neither a JSONL file nor a folder"),
        (("evaluate", "--data", "/nothing/here"), "/nothing/here"),
        (("evaluate", "--data", ".", "--tiers", "huge"), "no tier 'huge'"),
        (("simulate",), "give either --trace FILE or --arrivals"),
        (("simulate", "--arrivals", "poisson:rate=1", "--policy", "best"), "policy 'best' does not exist"),
        (("simulate", "--arrivals", "poisson:rate=1", "--fleet", "demo"), "demo names no latency profile"),
        (("simulate", "--arrivals", "poisson:rate=1", "--workload", "/nothing.yaml"), "/nothing.yaml: No such file"),
        (("plan", "-c", "demo"), "measure one with `rankfleet profile`"),
        (("plan", "--model", "huge"), "no tier 'huge'; this fleet has 17m, 32m"),
        (
            ("bench", "faults", "--scenario", "kill,flood"),
            "--scenario flood: unknown; choose from calm, kill, hang, node",
        ),
        (("distill", "--student", "demo/small", "--data", "/nothing", "--out", "x"), "there is no file /nothing"),
        (
            ("distill", "--student", "demo/small", "--documents", ".", "--out", "x"),
            "name the reranker that scores them",
        ),
    ],
)
def test_a_mistake_gets_one_message_and_exit_status_1(
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


def test_what_training_needs_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    assert run(monkeypatch, "distill", "--student", "demo/small", "--data", "/nothing", "--out", "x") == 1
    assert "pip install 'rankfleet[train]'" in capsys.readouterr().err


def test_brackets_in_a_message_are_not_taken_as_markup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "bm25s", None)  # as if it were not installed
    path = tmp_path / "docs.jsonl"
    path.write_text('{"id": "1", "text": "a"}\n')
    assert run(monkeypatch, "index", "build", str(path), "--out", str(tmp_path / "index")) == 1
    assert "pip install 'rankfleet[search]'" in capsys.readouterr().err


def test_a_simulation_writes_its_figures_and_a_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
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


@pytest.mark.parametrize(("candidates", "shown"), [("unordered", "0.3000"), ("ranked", "0.3800")])
def test_models_are_listed_with_the_quality_that_is_planned_by(
    candidates: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    table = {"retriever": 0.2, "tiers": {"a": 0.3}, "fused": {"weights": {"a": 1.5}, "tiers": {"a": 0.38}}}
    (tmp_path / "table.json").write_text(json.dumps({"data_sets": {"mine": table}}))
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"candidates: {candidates}\nquality: {{table: {tmp_path}/table.json}}\n"
        "tiers: {a: {model: demo/small, quality: 0.1}}\ngroups: {g: {tiers: [a]}}\n"
    )
    assert run(monkeypatch, "models", "--config", str(path)) == 0
    assert shown in capsys.readouterr().out
