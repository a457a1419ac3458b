"""Result files, tables of figures, and profiles of tiers."""

import json
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console

from rankfleet.bench.profile import MIN_SAMPLES, profile_fleet, profile_scorer
from rankfleet.bench.results import KEYS, command_line, installed, measured, read_results, write_results
from rankfleet.bench.tables import Column, figures_table, markdown, terminal
from rankfleet.core.errors import CheckpointError, ConfigError
from rankfleet.core.pairs import TokenizedPairs
from tests.unit.fakes import fleet

ABOUT = {"date": "2026-11-26", "machine": "a CPU", "versions": {"python": "3.11.7"}, "command": "rankfleet bench"}


def test_figures_are_written_with_what_they_were_measured_with(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_results(path, {"p50_ms": 1.5}, ABOUT)
    assert json.loads(path.read_text()) == {"measured": ABOUT, "p50_ms": 1.5}
    write_results(path, {"p99_ms": 2.5}, ABOUT | {"date": "2026-11-27"}, merge=True)
    assert read_results(path) == {"measured": ABOUT | {"date": "2026-11-27"}, "p50_ms": 1.5, "p99_ms": 2.5}
    assert next(iter(read_results(path))) == "measured"
    write_results(path, {"p99_ms": 3.5}, ABOUT)
    assert read_results(path) == {"measured": ABOUT, "p99_ms": 3.5}


def test_lists_of_plain_values_stand_on_one_line(tmp_path: Path) -> None:
    figures = {"runs": [[1, 2.5, None], [3, 4.5, True]], "words": ["a, b", "[c]"], "rows": [{"x": 1}]}
    write_results(tmp_path / "r.json", figures, ABOUT)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == {"measured": ABOUT, **figures}
    assert "    [1, 2.5, null],\n" in text
    assert '"[c]"' in text


def test_a_figure_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_results(tmp_path / "r.json", {"p50_ms": float("nan")}, ABOUT)
    assert not (tmp_path / "r.json").exists()


def test_what_is_measured_names_date_machine_versions_and_command() -> None:
    about = measured("a GPU", ["no-such-package"])
    assert tuple(about) == KEYS
    assert about["date"] == date.today().isoformat()
    assert about["machine"] == "a GPU"
    assert about["versions"].keys() >= {"python", "torch", "ray"}
    assert "no-such-package" not in about["versions"]
    assert installed(["no-such-package"]) == {}


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/v/bin/python", "/v/bin/rankfleet", "bench", "serve"], "rankfleet bench serve"),
        (
            ["/usr/bin/python3.11", "-m", "benchmarks.contest", "--against", ""],
            "python -m benchmarks.contest --against ''",
        ),
        (["python", "/repo/benchmarks/x.py", "--json", "/repo/out.json"], "python benchmarks/x.py --json out.json"),
        (["python", "x.py", "--data", "/else/where"], "python x.py --data where"),
    ],
)
def test_the_command_is_what_one_would_type(argv: list[str], command: str) -> None:
    assert command_line(argv, Path("/repo")) == command


def test_markdown_tables_have_numbers_to_the_right() -> None:
    assert markdown(["", "p50 ms"], [["small", "1.5"]]) == "|  | p50 ms |\n| --- | ---: |\n| small | 1.5 |"
    assert markdown(["a", "b", "c"], [], left=2).splitlines()[1] == "| --- | --- | ---: |"


def test_a_table_leaves_out_columns_that_no_row_has() -> None:
    columns = [Column("requests", ","), Column("p50_ms", ".1f"), Column("growth", ".1%", "grown by"), Column("failed")]
    rows = {"all": {"requests": 1234, "growth": None}, "one": {"requests": 2, "growth": 0.5, "p50_ms": 1.25}}
    shown = figures_table(rows, columns, first="class")
    assert [column.header for column in shown.columns] == ["class", "requests", "p50 ms", "grown by"]
    assert [list(column.cells) for column in shown.columns] == [
        ["all", "one"],
        ["1,234", "2"],
        ["", "1.2"],
        ["", "50.0%"],
    ]


def test_a_terminal_table_shows_square_brackets_as_they_are() -> None:
    console = Console(width=40)
    with console.capture() as shown:
        console.print(terminal(["document"], [["[bold]a[/x] b"]]))
    assert "[bold]a[/x] b" in shown.get()


class FakeScorer:
    """Scores nothing, and counts its batches."""

    dtype, max_pair = "float32", 64

    def __init__(self) -> None:
        self.longest: list[int] = []

    def score(self, pairs: TokenizedPairs) -> None:
        self.longest.append(int(pairs.lengths.max()))


def test_a_profile_takes_each_shape_as_often_as_asked() -> None:
    scorer, done = FakeScorer(), []
    profile = profile_scorer(scorer, None, [(1, 16), (2, 32), (4, 100)], 4, 60.0, lambda: done.append(1))  # type: ignore[arg-type]
    assert len(profile.samples) == len(done) == 12
    assert sorted({sample.work.pairs for sample in profile.samples}) == [1, 2, 4]
    assert max(scorer.longest) == 64, "no pair is longer than the model takes"
    assert profile.dtype == "float32"


def test_a_profile_without_enough_batches_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="give more --seconds"):
        profile_scorer(FakeScorer(), 16, [(1, 16)] * MIN_SAMPLES, 4, -1.0)  # type: ignore[arg-type]


def test_a_tier_that_cannot_be_profiled_is_named(tmp_path: Path) -> None:
    tiers = {"big": {"model": str(tmp_path / "nothing"), "quality": 0.5}}
    with pytest.raises(CheckpointError, match="tier big: "):
        profile_fleet(fleet(tiers=tiers, groups={"g": {"tiers": ["big"]}}), [(1, 16)], 1, 1.0)
