"""Documentation says what the code does."""

import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rankfleet.cli
from rankfleet.cli import config, serve  # noqa: F401  (registers the verbs)
from rankfleet.core.config import FleetConfig
from rankfleet.core.keys import describe_keys

ROOT = Path(__file__).parents[2]


def test_every_key_is_described() -> None:
    assert [key.path for key in describe_keys(FleetConfig) if not key.description] == []


def test_the_page_of_keys_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(rankfleet.cli.app, ["config", "keys"]).stdout
    assert "groups.NAME.replicas.min" in printed
    assert printed in (ROOT / "docs/configuration.md").read_text(), "run: rankfleet config keys"


def test_readme_shows_the_request_that_the_start_prints() -> None:
    example = serve.EXAMPLE.format(address="http://127.0.0.1:8000")
    assert example in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "k8s/README.md"], ids=lambda p: p.name
)
def test_what_pages_point_to_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"
    packages = "|".join(path.name for path in (ROOT / "serve/rankfleet").iterdir() if path.is_dir())
    for name in re.findall(rf"`((?:docs|benchmarks|{packages})/[\w./-]+)`", text):
        assert (ROOT / name).exists() or (ROOT / "serve/rankfleet" / name).exists(), f"{page.name} names {name}"


def test_tables_are_what_the_results_say() -> None:
    tables = runpy.run_path(str(ROOT / "benchmarks/tables.py"))
    for page in tables["PAGES"]:
        text = page.read_text()
        assert text == tables["filled"](text), "run: python benchmarks/tables.py"
