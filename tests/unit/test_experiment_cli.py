"""`rankfleet experiment report` and `plan`, on a folder of events."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rankfleet.cli import app
from rankfleet.cli.experiment_report import duration
from rankfleet.core.errors import ConfigError
from rankfleet.core.events import Feedback
from rankfleet.router.experiments import bucket, unit_hash
from tests.unit.test_recorded_requests import event, shadow, write

USERS = 400


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    """A fleet whose users have sent a request each; every third of them clicked."""
    experiments = {
        "size": {"control": "large", "arms": {"large": {"weight": 1}, "small": {"weight": 1, "model": "small"}}},
        "larger": {"mode": "shadow", "arms": {"large": {"weight": 1, "model": "large"}}},
    }
    settings = {
        "tiers": {name: {"model": f"demo/{name}", "quality": 0.4} for name in ("small", "large")},
        "groups": {"one": {"tiers": ["small", "large"]}},
        "events": {"folder": str(tmp_path / "events")},
        "experiments": experiments,
    }
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    rows, clicks = [], []
    for user in range(USERS):
        unit = unit_hash("size", "1", f"user-{user}")
        arm = "large" if bucket(unit) < 5000 else "small"
        spent_ms = (20.0 if arm == "large" else 10.0) + user % 3
        rows.append(event(f"r-{user}", at_s=float(user), arm=arm, unit=unit, tier=arm, total_ms=spent_ms))
        if user % 3 == 0:
            clicks.append(Feedback(at_s=1000.0, request_id=f"r-{user}", clicks=[2]))
    write(tmp_path / "events", "r1.jsonl", rows)
    write(tmp_path / "events", "feedback-r1.jsonl", clicks)
    write(tmp_path / "events", "shadow-r1.jsonl", [shadow("r-1", 0.5, 0.2, 0.1)])
    return file


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["experiment", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_report_of_a_faster_arm(fleet_file: Path) -> None:
    figures, page, picture = (fleet_file.with_name(name) for name in ("report.json", "report.md", "report.png"))
    said = run("report", "size", "--config", fleet_file, "--json", figures, "--markdown", page, "--plot", picture)
    assert "small: not yet: about" in said
    found = json.loads(figures.read_text())
    latency = next(each for each in found["comparisons"] if each["measure"] == "latency_ms")
    assert latency["difference"] == pytest.approx(-10, abs=0.3)
    assert latency["finding"] == "better"
    assert found["arms"]["large"]["requests"] + found["arms"]["small"]["requests"] == USERS
    assert found["mismatch"] is None
    assert "| arm | requests | units |" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_plan_of_an_experiment(fleet_file: Path) -> None:
    said = run("plan", "size", "--config", fleet_file, "--json", fleet_file.with_name("plan.json"))
    measures = json.loads(fleet_file.with_name("plan.json").read_text())["measures"]
    # A share of a third ± 0.01: more than ten thousand requests by any rule.
    assert measures["ctr@10"]["requests"] > 10_000
    assert measures["ctr@10"]["value"] == pytest.approx(1 / 3, abs=0.1)  # of half of the users
    assert "CTR@10" in said


def test_the_report_of_a_shadow(fleet_file: Path) -> None:
    said = run("report", "larger", "--config", fleet_file)
    assert "50.0%" in said
    assert "r-1" in said


def test_what_is_asked_for_in_vain(fleet_file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no experiment 'sizes' in the fleet file; there are: size, larger"):
        run("report", "sizes", "--config", fleet_file)
    with pytest.raises(ConfigError, match="there is no such folder"):
        run("report", "size", "--config", fleet_file, "--events", fleet_file.with_name("nothing"))
    with pytest.raises(ConfigError, match="those of a shadow experiment do not"):
        run("report", "larger", "--config", fleet_file, "--plot", fleet_file.with_name("a.png"))
    settings = yaml.safe_load(fleet_file.read_text())
    del settings["events"]
    fleet_file.write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(ConfigError, match=r"has no `events\.folder`"):
        run("report", "size", "--config", fleet_file)


def test_durations_are_told_in_their_own_unit() -> None:
    assert [duration(seconds) for seconds in (30, 150, 9000, 1_000_000)] == [
        "30 s",
        "2.5 minutes",
        "2.5 hours",
        "11.6 days",
    ]
