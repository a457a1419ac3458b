"""Documentation says what the code does."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from benchmarks.figures.pages import FIGURES, PAGES, REASONS, allowed, filled, marks_at_line_start, names, unmarked
from benchmarks.figures.pictures import PICTURES, Picture
from benchmarks.paths import RESULTS
from typer.testing import CliRunner

import rankfleet.cli
from rankfleet.bench.results import KEYS, read_results
from rankfleet.cli import config, k8s, plan, serve  # noqa: F401  (registers the verbs)
from rankfleet.cli.keys import describe_keys
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import read_config
from rankfleet.k8s.cluster_file import ClusterFile

ROOT = Path(__file__).parents[2]


def test_every_key_is_described() -> None:
    assert [key.path for key in describe_keys(FleetConfig) if not key.description] == []


def test_the_page_of_keys_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(rankfleet.cli.app, ["config", "keys"]).stdout
    assert "groups.NAME.replicas.min" in printed
    assert printed in (ROOT / "docs/configuration.md").read_text(), "run: rankfleet config keys"


def test_the_page_of_kubernetes_has_the_keys_of_a_cluster_file() -> None:
    assert [key.path for key in describe_keys(ClusterFile) if not key.description] == []
    printed = CliRunner().invoke(rankfleet.cli.app, ["k8s", "keys"]).stdout
    assert "pools.NAME.max_pods" in printed
    assert printed in (ROOT / "docs/kubernetes.md").read_text(), "run: rankfleet k8s keys"


SETTINGS_TABLE = re.compile(r"^\| setting[^|]*\| default \|.*\n\|[-| ]+\n((?:\|.*\n)+)", re.MULTILINE)


def stated_defaults(page: str) -> Iterator[tuple[str, str]]:
    """(setting, default) of every row of the tables of settings on a page, without a leading dot."""
    for rows in SETTINGS_TABLE.findall(page):
        for row in rows.splitlines():
            _, names, default, *_ = row.split("|")
            yield from ((name.lstrip("."), default.strip()) for name in re.findall(r"`([^`]+)`", names))


@pytest.mark.parametrize("name", ["autoscaling", "batching", "faults", "routing"])
def test_tables_of_settings_name_keys_of_the_fleet_file_and_their_defaults(name: str) -> None:
    keys = [(key.path, key.default.strip("`")) for key in describe_keys(FleetConfig)]
    stated = list(stated_defaults((ROOT / f"docs/{name}.md").read_text()))
    assert stated
    for setting, default in stated:
        if setting.startswith("RAY_"):
            assert setting in (ROOT / "serve/rankfleet/cluster/environment.py").read_text()
            continue
        if setting.endswith(".*"):
            assert any(path.startswith(setting[:-1]) for path, _ in keys), setting
            continue
        defaults = {known for path, known in keys if f".{path}".endswith(f".{setting}")}
        assert defaults, f"{setting} is no key of the fleet file"
        assert not default or yaml.safe_load(default) in map(yaml.safe_load, defaults), setting


def test_readme_shows_the_request_that_the_start_prints() -> None:
    example = serve.EXAMPLE.format(address="http://127.0.0.1:8000")
    assert example in (ROOT / "README.md").read_text()


def test_the_plan_that_a_page_shows_is_what_the_command_prints() -> None:
    page = (ROOT / "docs/routing.md").read_text()
    shown = page.partition("`rankfleet plan --slo-ms 60`")[2].split("```")[1].strip().splitlines()
    printed = CliRunner().invoke(rankfleet.cli.app, ["plan", "--slo-ms", "60"]).stdout.splitlines()
    assert [line.rstrip() for line in printed[: len(shown)]] == shown


@pytest.mark.parametrize("path", ["configs/demo.yaml", "benchmarks/one_replica.yaml"])
def test_the_demo_tiers_have_the_quality_that_was_measured(path: str) -> None:
    tiers = read_results(RESULTS / "demo_quality.json")["mean"]["tiers"]
    measured = {name: round(tier["ndcg@10"], 3) for name, tier in tiers.items()}
    assert {name: tier.quality for name, tier in read_config(ROOT / path).tiers.items()} == measured


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], ids=lambda p: p.name)
def test_what_pages_point_to_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"
    packages = "|".join(path.name for path in (ROOT / "serve/rankfleet").iterdir() if path.is_dir())
    for name in re.findall(rf"`((?:docs|benchmarks|{packages})/[\w./-]+)`", text):
        assert (ROOT / name).exists() or (ROOT / "serve/rankfleet" / name).exists(), f"{page.name} names {name}"


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_marked_figures_are_what_the_results_say(page: Path) -> None:
    text = page.read_text()
    assert text == filled(text), "run: make docs"
    assert text.count("<!-- figure ") == text.count("<!-- end -->") == len(names(text)), "a mark has no partner"
    assert marks_at_line_start(text) == [], "GitHub does not format a line that begins with a comment"


def test_every_figure_is_on_some_page() -> None:
    assert set(FIGURES) == {name for page in PAGES for name in names(page.read_text())}


@each_page
def test_a_number_is_a_marked_figure_or_has_a_reason_not_to_be(page: Path) -> None:
    reasons = allowed().get(str(page.relative_to(ROOT)), {})
    found = set(unmarked(page.read_text()))
    assert found - set(reasons) == set(), "mark it as a figure, or give a reason in benchmarks/figures/allowed.toml"
    assert set(reasons) - found == set(), "no longer on the page: remove it from benchmarks/figures/allowed.toml"


def test_every_reason_is_one_of_few() -> None:
    assert set(allowed()) <= {str(page.relative_to(ROOT)) for page in PAGES}
    for page, reasons in allowed().items():
        for number, reason in reasons.items():
            kind, _, which = reason.partition(": ")
            assert kind in REASONS, f"{page}: {number}"
            assert which, f"{page}: {number}: say which {kind}"


def test_numbers_in_prose_are_found() -> None:
    page = """Takes 3 ms, 2.7 to 6.1 s or 50/100 ms; loses .04, gains 0.0023, then 12.5%, 1,061 pairs/s, 6.6× in 2 GB.
Not these: 17m, 3 replicas, version 2.60, `9 ms`, [a page](9-ms.md), <!-- 9 ms -->, p99.
A mark: <!-- figure plan-p50 -->9 ms<!-- end --> and then 8 ms.

| setting | default |
|---|---|
| `x` | 7 ms |

| what | time |
|---|---|
| a row | 6 ms |

```
5 ms
```
"""
    assert list(unmarked(page)) == [
        *("3 ms", "2.7 to 6.1 s", "50/100 ms", ".04", "0.0023", "12.5%", "1,061 pairs/s", "6.6×", "2 GB"),
        *("8 ms", "6 ms"),
    ]


def test_a_stale_figure_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIGURES, "one", lambda: "3 ms")
    assert filled("It takes <!-- figure one -->9 ms<!-- end -->.") == "It takes <!-- figure one -->3 ms<!-- end -->."
    assert filled("<!-- figure one -->\nold\n\n<!-- end -->\n") == "<!-- figure one -->\n3 ms\n<!-- end -->\n"
    with pytest.raises(KeyError, match="nothing"):
        filled("<!-- figure nothing -->1 ms<!-- end -->")


def test_a_mark_at_the_beginning_of_a_line_is_found() -> None:
    assert marks_at_line_start("A\n<!-- figure one -->3 ms<!-- end --> b, <!-- figure two -->4 s<!-- end -->") == [
        "one"
    ]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_pictures_show_what_the_results_say(picture: Picture) -> None:
    assert picture.is_current(), "run: make docs"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_say_when_where_and_how_they_were_measured(path: Path) -> None:
    measured = read_results(path)["measured"]
    assert list(measured)[: len(KEYS)] == list(KEYS)
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", measured["date"])
    for key in ("machine", "command"):
        assert measured[key] is None or measured[key].strip()
    versions = measured["versions"]
    assert versions is None or all(isinstance(version, str) for version in versions.values())


@pytest.mark.parametrize(("name", "section"), [("routing_goals", "routing"), ("autoscaling", "autoscaling")])
def test_simulated_results_are_of_the_settings_that_are_shipped(name: str, section: str) -> None:
    shipped = getattr(read_config(ROOT / "configs/sim-fleet.yaml"), section).model_dump(mode="json")
    simulated = read_results(RESULTS / f"{name}.json")["settings"][section]
    assert simulated == shipped, (
        f"run benchmarks.{name} again; where only names of keys have changed, change them there"
    )
