"""The files of events: what is written when, what is dropped, and what becomes of past hours."""

import importlib
import json
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from rankfleet.cluster.event_files import EventFiles
from rankfleet.cluster.event_hours import check_events, compact, hour_of, local_folder
from rankfleet.core.errors import ConfigError
from rankfleet.core.events import Feedback, RequestEvent
from rankfleet.core.sections import Events
from rankfleet.experiments.store import open_store
from tests.unit.fakes import DAWN_S, FakeClock

HOUR_S, DAY_S = 3600.0, 86_400.0


def event(request_id: str, **fields: Any) -> RequestEvent:
    return RequestEvent(at_s=DAWN_S, request_id=request_id, candidates=2, total_ms=1.5, **fields)


class Writer(EventFiles):
    """Writes to a folder, at a time that tests set, and keeps what it has dropped."""

    def __init__(self, folder: Path | str | None, router: str = "r1", max_queued: int = 100, **settings: Any) -> None:
        self.wall, self.steady, self.dropped = FakeClock(), FakeClock(), list[int]()
        self.wall.now = DAWN_S
        super().__init__(router, self.dropped.append, self.wall, self.steady, max_queued)
        self.adjust(Events(folder=folder and str(folder), **settings))

    def put(self, *request_ids: str, **fields: Any) -> None:
        for request_id in request_ids:
            self.write(event(request_id, **fields))
        self.flush()

    def now_sweep(self) -> None:
        self.flush()
        self.sweep()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def ids(folder: Path | str) -> list[str]:
    found = open_store(str(folder)).sql("SELECT request_id FROM events ORDER BY 1").fetchall()
    return [request_id for (request_id,) in found]


def test_a_flush_writes_whole_lines_by_hour_and_router(tmp_path: Path) -> None:
    one = Writer(tmp_path)
    one.write(event("r-1", ranking=[1, 0], met=True))
    one.write(Feedback(at_s=DAWN_S + 1, request_id="r-1", clicks=[1], labels={1: 2.0}))
    assert files(tmp_path) == [], "nothing is written on the way of a request"
    one.flush()
    one.wall.now += HOUR_S
    one.put("r-2")
    assert files(tmp_path) == ["2026-12-01/00/feedback-r1.jsonl", "2026-12-01/00/r1.jsonl", "2026-12-01/01/r1.jsonl"]
    line = json.loads((tmp_path / "2026-12-01/00/r1.jsonl").read_text())
    assert (line["request_id"], line["ranking"], line["met"], line["arm"]) == ("r-1", [1, 0], True, None)
    assert ids(tmp_path) == ["r-1", "r-2"]
    assert open_store(str(tmp_path)).sql("SELECT clicks, labels FROM feedback").fetchall() == [([1], {1: 2.0})]


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = Writer(None)
    one.put("r-1")
    one.sweep()
    one.stop()
    assert (files(tmp_path), one.dropped) == ([], [])


def test_the_folder_changes_while_it_writes(tmp_path: Path) -> None:
    one = Writer(tmp_path / "a")
    one.put("r-1")
    one.write(event("r-2"))
    one.adjust(Events(folder=str(tmp_path / "b")))
    one.put("r-3")  # came before the flush that turns to the other folder
    one.put("r-4")
    one.adjust(Events())
    one.flush()
    one.put("r-5")
    one.adjust(Events(folder=str(tmp_path / "a")))
    one.put("r-6")
    assert (ids(tmp_path / "a"), ids(tmp_path / "b")) == (["r-1", "r-2", "r-3", "r-6"], ["r-4"])


def test_a_full_queue_drops_what_comes_and_leaves_room_for_events(tmp_path: Path) -> None:
    one = Writer(tmp_path, max_queued=4)
    said = [one.write(Feedback(at_s=DAWN_S, request_id=f"f-{i}")) for i in range(3)]
    taken = [one.write(event(f"r-{i}")) for i in range(4)]
    assert (said, taken) == ([True, True, False], [True, True, False, False])
    one.flush()
    assert (one.dropped, ids(tmp_path)) == ([3], ["r-0", "r-1"])
    one.put("r-9")
    assert (one.dropped, ids(tmp_path)) == ([3], ["r-0", "r-1", "r-9"])


@contextmanager
def largest_file(max_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_no_half_line_is_counted_and_is_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Writer(tmp_path)
    one.put("r-0")
    size = (tmp_path / "2026-12-01/00/r1.jsonl").stat().st_size
    with largest_file(size + 100):
        one.put("lost-1", "lost-2")
        one.put("lost-3")
        one.steady.now += 61
        one.put("lost-4")
    one.put("r-1")
    assert (ids(tmp_path), one.dropped) == (["r-0", "r-1"], [2, 1, 1])
    lines = (tmp_path / "2026-12-01/00/r1.jsonl").read_bytes()
    assert (lines.count(b"\n"), lines[-1:]) == (2, b"\n")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"2 events were not written to {tmp_path}; requests go on: OSError")
    assert second.startswith(f"2 events were not written to {tmp_path}; requests go on: OSError")


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    one = Writer(tmp_path / "a")
    one.put("r-1")
    shutil.rmtree(tmp_path / "a")
    one.put("r-2")
    assert ids(tmp_path / "a") == ["r-2"]


def test_a_past_hour_becomes_parquet_with_the_same_rows(tmp_path: Path) -> None:
    one = Writer(tmp_path)
    one.put("r-1", "r-2", ranking=[1, 0], budget_ms=20.0)
    one.write(Feedback(at_s=DAWN_S, request_id="r-1", labels={3: 1.0}, converted=True))
    one.flush()
    before = [open_store(str(tmp_path)).sql(f"FROM {view}").fetchall() for view in ("events", "feedback")]
    one.sweep()
    assert files(tmp_path) == ["2026-12-01/00/feedback-r1.jsonl", "2026-12-01/00/r1.jsonl"], "it is the present hour"
    one.wall.now += HOUR_S
    one.now_sweep()
    assert files(tmp_path) == ["2026-12-01/00/feedback-r1.parquet", "2026-12-01/00/r1.parquet"]
    assert [open_store(str(tmp_path)).sql(f"FROM {view}").fetchall() for view in ("events", "feedback")] == before


def test_a_stop_writes_what_is_queued_and_makes_parquet_of_its_own_hour_alone(tmp_path: Path) -> None:
    other = Writer(tmp_path, "r2")
    other.put("r-0")
    one = Writer(tmp_path)
    one.write(event("r-1"))
    one.stop()
    assert files(tmp_path) == ["2026-12-01/00/r1.parquet", "2026-12-01/00/r2.jsonl"]
    assert ids(tmp_path) == ["r-0", "r-1"]


def test_what_a_dead_router_has_left_is_found_ten_minutes_after_its_hour(tmp_path: Path) -> None:
    Writer(tmp_path, "dead").put("r-1")
    path = tmp_path / "2026-12-01/00/dead.jsonl"
    path.write_bytes(path.read_bytes() + b'{"request_id": "half')
    one = Writer(tmp_path)
    for minutes, ending in ((69, "jsonl"), (70, "parquet")):
        one.wall.now = DAWN_S + minutes * 60
        one.now_sweep()
        assert files(tmp_path) == [f"2026-12-01/00/dead.{ending}"]
    assert ids(tmp_path) == ["r-1"]


def test_a_clock_that_is_set_back_does_not_bring_back_an_hour(tmp_path: Path) -> None:
    one = Writer(tmp_path)
    one.put("r-1")
    one.wall.now += HOUR_S
    one.now_sweep()
    one.wall.now -= 10.0
    one.put("r-2")
    one.now_sweep()
    assert files(tmp_path) == ["2026-12-01/00/r1.parquet", "2026-12-01/01/r1.jsonl"]
    assert ids(tmp_path) == ["r-1", "r-2"]


def test_two_routers_may_look_after_a_folder_at_once(tmp_path: Path) -> None:
    Writer(tmp_path, "dead").put("r-1", "r-2")
    path = tmp_path / "2026-12-01/00/dead.jsonl"
    lines = path.read_bytes()
    compact(path)
    path.write_bytes(lines)  # as one sees it that began before the other was done
    assert ids(tmp_path) == ["r-1", "r-2"], "none twice"
    compact(path)
    assert (files(tmp_path), ids(tmp_path)) == (["2026-12-01/00/dead.parquet"], ["r-1", "r-2"])


def test_without_duckdb_lines_stay_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = Writer(tmp_path)
    one.put("r-1")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "duckdb", None)
        for _ in range(2):
            one.wall.now += HOUR_S
            one.now_sweep()
            one.put("r-2")
        one.stop()
    importlib.import_module("duckdb")
    assert [name for name in files(tmp_path) if not name.endswith(".jsonl")] == []
    assert [record.getMessage() for record in caplog.records] == [
        "events stay JSON lines, because DuckDB is missing: pip install 'rankfleet[experiments]'"
    ]
    assert ids(tmp_path) == ["r-1", "r-2", "r-2"]


def test_what_cannot_become_parquet_stays_and_is_tried_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = Writer(tmp_path)
    one.put(*(f"r-{i}" for i in range(50)))
    one.wall.now += HOUR_S
    with largest_file(100):
        one.now_sweep()
    one.now_sweep()
    assert files(tmp_path) == ["2026-12-01/00/r1.jsonl"]
    (record,) = caplog.records
    assert "2026-12-01/00/r1.jsonl stays as it is" in record.getMessage()


def test_old_files_and_those_above_the_size_are_removed_the_oldest_first(tmp_path: Path) -> None:
    for hour in ("2026-11-27/23", "2026-11-28/00", "2026-11-29/05", "2026-12-01/00"):
        path = tmp_path / hour / "r0.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"0" * 400_000)
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "2026-11-27/notes.txt").write_text("not ours")
    one = Writer(tmp_path, keep_days=3, max_mb=10)
    one.now_sweep()
    kept = ["2026-11-27/notes.txt", "2026-11-28/00/r0.parquet", "2026-11-29/05/r0.parquet", "2026-12-01/00/r0.parquet"]
    assert files(tmp_path) == [*kept, "notes.txt"]
    assert not (tmp_path / "2026-11-27/23").exists()
    one.adjust(Events(folder=str(tmp_path), keep_days=3, max_mb=1))
    one.now_sweep()
    assert files(tmp_path) == [kept[0], *kept[2:], "notes.txt"]


def test_an_hour_that_is_too_large_alone_is_not_written_further(tmp_path: Path, caplog: Any) -> None:
    one = Writer(tmp_path, max_mb=0.001)
    one.put("r-1", reason="x" * 1000)
    one.sweep()
    one.put("lost")
    assert (one.dropped, ids(tmp_path)) == ([1], ["r-1"])
    assert caplog.records[-1].getMessage().endswith("this hour alone has more than events.max_mb")
    one.wall.now += HOUR_S
    one.now_sweep()  # Parquet, and removed
    one.put("r-2")
    assert (one.dropped, ids(tmp_path)) == ([1], ["r-2"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RANKFLEET_CACHE", str(tmp_path))
    return tmp_path


def test_whole_hours_go_to_a_url_and_leave_nothing_here(cache: Path) -> None:
    url = "memory://bucket/events"
    check_events(Events(folder=url))
    one = Writer(url, keep_days=2)
    one.put("r-1")
    assert (ids_or_none(url), files(local_folder(url))) == (None, ["2026-12-01/00/r1.jsonl"])
    one.wall.now += HOUR_S
    one.put("r-2")
    one.sweep()
    assert (ids(url), files(local_folder(url))) == (["r-1"], ["2026-12-01/01/r1.jsonl"])
    one.stop()
    assert (ids(url), files(local_folder(url))) == (["r-1", "r-2"], [])
    later = Writer(url, "r3", keep_days=2)
    later.wall.now = DAWN_S + 3 * DAY_S
    later.put("r-3")
    later.stop()
    assert ids(url) == ["r-3"], "what is too old is removed there, too"


def ids_or_none(url: str) -> list[str] | None:
    try:
        return ids(url)
    except ConfigError:
        return None


def test_a_store_that_cannot_be_reached_keeps_the_files_here(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = "memory://broken"
    fsspec.filesystem("memory").pipe("/broken/2026-12-01", b"a file where a folder has to be")
    one = Writer(url)
    one.put("r-1")
    one.wall.now += HOUR_S
    one.now_sweep()
    assert files(local_folder(url)) == ["2026-12-01/00/r1.parquet"]
    assert re.search("events of past hours wait in .* to go to memory://broken: ", caplog.text)
    one.adjust(Events(folder=url, max_mb=0.001))
    one.now_sweep()
    assert files(local_folder(url)) == [], "what waits is bounded, too"
    one.put("r-2")
    one.wall.now += HOUR_S
    one.adjust(Events(folder=url))
    one.now_sweep()
    fsspec.filesystem("memory").rm("/broken", recursive=True)
    one.now_sweep()
    assert ids(url) == ["r-2"]


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/dev/null/a", "events.folder: /dev/null/a: Not a directory"),
        ("nowhere://a", "events.folder: nowhere://a: Protocol not known: nowhere"),
    ],
)
def test_a_folder_that_cannot_be_is_named_with_its_key(folder: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_events(Events(folder=folder))
    assert str(caught.value) == why


def test_hours_are_those_of_utc_and_sort_by_time() -> None:
    # date -u -d @1796083199.9 +%F/%H
    assert [hour_of(DAWN_S - 0.1), hour_of(DAWN_S)] == ["2026-11-30/23", "2026-12-01/00"]
