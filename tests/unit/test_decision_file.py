"""The file of decisions: which are written, and what happens where they cannot be."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rankfleet.cluster.decision_file import DecisionFile, check_folder
from rankfleet.cluster.fleet_files import FleetFiles
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import DecisionLog
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.decision_log import line_of, parse_line
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState
from tests.unit.fakes import FakeClock, fleet

REQUEST = PlanRequest({"small": Work(10, 1000, 100_000)}, 0.0)
FLEET = FleetSnapshot((TierState("small", 0.3, "g", LatencyModel(1.0, 0.01, 0.0)),), {"g": GroupState(1, 0.0)}, 5.0)
DECISION = (REQUEST, FLEET, 0.0, plan(REQUEST, FLEET, 0.0))
LINE_BYTES = len(line_of("r-0", *DECISION)) + 1


def ids(path: Path) -> list[str]:
    return [parse_line(line).request_id for line in path.read_bytes().splitlines()]


@contextmanager
def opened(folder: Path, share: float = 1.0, max_bytes: int = 10**9) -> Iterator[DecisionFile]:
    file = DecisionFile("decisions-r1", FakeClock(), max_bytes)
    file.adjust(DecisionLog(folder=str(folder), share=share))
    yield file
    file.adjust(DecisionLog())


def test_nothing_is_written_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DecisionFile("decisions-r1").write("r-0", *DECISION)
    assert list(tmp_path.iterdir()) == []


def test_a_share_of_the_decisions_is_written(tmp_path: Path) -> None:
    with opened(tmp_path, share=0.25) as file:
        for i in range(1000):
            file.write(f"r-{i}", *DECISION)
    # 250 ± 5 standard deviations of a binomial distribution (13.7)
    assert 181 <= len(ids(tmp_path / "decisions-r1.jsonl")) <= 319


def test_the_folder_and_the_share_change_while_it_writes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with opened(tmp_path / "a") as file:
        file.write("r-0", *DECISION)
        file.adjust(DecisionLog(folder=str(tmp_path / "b"), share=1.0))
        file.write("r-1", *DECISION)
        file.adjust(DecisionLog())
        file.write("r-2", *DECISION)
        file.adjust(DecisionLog(folder=str(tmp_path / "a"), share=1.0))
        file.write("r-3", *DECISION)
    assert ids(tmp_path / "a/decisions-r1.jsonl") == ["r-0", "r-3"]
    assert ids(tmp_path / "b/decisions-r1.jsonl") == ["r-1"]


def test_a_full_file_is_put_aside_and_the_one_before_it_removed(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=2 * LINE_BYTES) as file:
        for i in range(5):
            file.write(f"r-{i}", *DECISION)
    assert ids(tmp_path / "decisions-r1.jsonl.1") == ["r-2", "r-3"]
    assert ids(tmp_path / "decisions-r1.jsonl") == ["r-4"]


def test_a_full_disk_fails_no_request_leaves_no_part_of_a_line_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as file:
        file.write("r-0", *DECISION)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LINE_BYTES + 100, limits[1]))  # room for a part of a line
        try:
            for i in range(3):
                file.write(f"r-full-{i}", *DECISION)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.write("r-1", *DECISION)
    assert ids(tmp_path / "decisions-r1.jsonl") == ["r-0", "r-1"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"a decision cannot be written to {tmp_path}; requests go on: OSError")
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_is_gone_is_logged_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    file = DecisionFile("decisions-r1", clock)
    file.adjust(DecisionLog(folder=str(tmp_path / "gone"), share=1.0))
    for now_s in (0.0, 30.0, 59.0, 60.0, 61.0):
        clock.now = now_s
        file.write("r-0", *DECISION)
    assert len(caplog.records) == 2


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_folder("decision_log.folder", str(tmp_path / "a/b"))
    assert list((tmp_path / "a/b").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/dev/null", "File exists"),
        ("/dev/null/a", "Not a directory"),
        ("/proc/self", "No such file or directory"),  # not even root can write there
    ],
)
def test_a_folder_that_cannot_be_made_is_named_with_its_key(folder: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"^decision_log\.folder: {folder}: {why}$"):
        check_folder("decision_log.folder", folder)


def test_a_fleet_file_whose_folder_cannot_be_made_is_not_served() -> None:
    with pytest.raises(ConfigError, match=r"decision_log\.folder: /dev/null/a: Not a directory"):
        FleetFiles(fleet(decision_log={"folder": "/dev/null/a"}))
