"""The command line: what people see when something is wrong."""

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
        (("bench", "engine"), "--model demo/large or --shape 17m"),
        (("bench", "engine", "--shape", "17m", "--against", "tei"), "--against tei: there are sentence-transformers"),
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
