"""Events and feedback are read from JSON lines and Parquet alike, and feedback is merged."""

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest

from rankfleet.core.errors import ConfigError
from rankfleet.core.events import RequestEvent, sql_columns
from rankfleet.experiments.store import open_store

HOUR = "2026-12-01/08"
COLUMNS = [*sql_columns(RequestEvent)]


def write(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def event(request_id: str, **fields: Any) -> dict[str, Any]:
    return {"request_id": request_id, "at_s": 1.5, **fields}


def rows(folder: Path | str, query: str) -> list[Any]:
    return open_store(str(folder)).sql(query).fetchall()


def test_the_columns_are_those_of_the_event_and_the_router(tmp_path: Path) -> None:
    given = event("r-1", tenant="shop", step=1, ranking=[2, 0, 1], met=True, budget_ms=20, quality=None)
    write(tmp_path / HOUR / "router-a.jsonl", given)
    view = open_store(str(tmp_path)).sql("FROM events")
    assert view.columns == [*COLUMNS, "router"]
    (row,) = view.fetchall()
    found = dict(zip(view.columns, row, strict=True))
    assert {name: value for name, value in found.items() if value is not None} == {
        "request_id": "r-1",
        "at_s": 1.5,
        "tenant": "shop",
        "step": 1,
        "ranking": [2, 0, 1],
        "met": True,
        "budget_ms": 20.0,
        "router": "router-a",
    }


def test_lines_and_parquet_are_read_together_and_none_twice(tmp_path: Path) -> None:
    for hour in ("2026-12-01/08", "2026-12-01/09"):
        write(tmp_path / hour / "a.jsonl", event(f"{hour[-2:]}"))
    parquet = tmp_path / HOUR / "a.parquet"
    # of an earlier version, with a column less, and one more than there is now
    duckdb.sql("SELECT 'whole' AS request_id, 1.0::DOUBLE AS at_s, 7 AS gone").write_parquet(str(parquet))
    assert rows(tmp_path, "SELECT request_id, router, met FROM events ORDER BY 1") == [
        ("09", "a", None),
        ("whole", "a", None),
    ]


def test_what_is_no_whole_line_is_left_out(tmp_path: Path) -> None:
    half = json.dumps(event("half", ranking=[3, 4])).encode()[:-6]
    broken = (b"\xff\xfe", b"", b"[1]", event("r-2", at_s="soon"))
    write(tmp_path / HOUR / "a.jsonl", event("r-1"), *broken, event("r-3"), half)
    write(tmp_path / HOUR / "a.jsonl.tmp", event("other"))
    assert rows(tmp_path, "SELECT request_id FROM events ORDER BY 1") == [("r-1",), ("r-3",)]


def test_feedback_is_merged_by_request_and_tenant_whatever_its_order(tmp_path: Path) -> None:
    lines = [
        event("r-1", at_s=3.0, clicks=[4, 1], labels={"3": 0, "5": 1}),
        event("r-1", at_s=1.0, clicks=[1, 2], labels={"3": 2}, converted=True),
        event("r-1", at_s=2.0, converted=False),
        event("r-1", at_s=9.0, tenant="shop", clicks=[]),
        event("r-2", at_s=4.0, labels={"0": 1.5}),
    ]
    expected = [
        ("r-1", "shop", 9.0, [], None, None),
        ("r-1", None, 3.0, [1, 2, 4], {3: 0.0, 5: 1.0}, True),
        ("r-2", None, 4.0, None, {0: 1.5}, None),
    ]
    write(tmp_path / "one" / HOUR / "feedback-a.jsonl", *lines)
    for i, line in enumerate(lines[::-1]):
        write(tmp_path / "two" / f"2026-12-0{i + 1}/08" / "feedback-a.jsonl", line, line)  # and each twice
    for folder in ("one", "two"):
        assert rows(tmp_path / folder, "FROM feedback ORDER BY request_id, tenant NULLS LAST") == expected
        assert rows(tmp_path / folder, "FROM events") == []


def test_an_empty_folder_has_empty_views(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert (store.sql("FROM events").columns, store.sql("FROM events").fetchall()) == ([*COLUMNS, "router"], [])
    columns = ["request_id", "tenant", "at_s", "clicks", "labels", "converted"]
    assert (store.sql("FROM feedback").columns, store.sql("FROM feedback").fetchall()) == (columns, [])


def test_a_folder_that_is_not_there_says_how_to_switch_events_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/gone: there is no such folder; `events: \{folder: …\}` in the fleet file"):
        open_store(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"^nowhere://a: Protocol not known: nowhere$"):
        open_store("nowhere://a")


def test_a_store_behind_a_url_is_read_in_the_same_way(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    local = tmp_path / "it's.parquet"
    duckdb.sql("SELECT 'r-1' AS request_id, 1.0::DOUBLE AS at_s, [1, 0] AS ranking").write_parquet(str(local))
    files.put(str(local), "/store/2026-12-01/08/it's.parquet")
    assert rows("memory://store", "SELECT request_id, ranking, router FROM events") == [("r-1", [1, 0], "it's")]


def test_what_the_page_reads_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = (Path(__file__).parents[2] / "docs/experiments.md").read_text()
    assert [name for name in (*COLUMNS, "router") if f"`{name}`" not in page] == []
    write(
        tmp_path / "events" / HOUR / "a.jsonl",
        event("r-1", arm="small", total_ms=12.5, met=True, ranking=[2, 0]),
        event("r-2", arm="small", total_ms=12.5, met=False, ranking=[0, 1]),
    )
    write(
        tmp_path / "events" / HOUR / "feedback-a.jsonl", event("r-1", clicks=[2]), event("r-2", clicks=[]), event("r-3")
    )
    monkeypatch.chdir(tmp_path)
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    figures = re.findall(r"^│ (small .*) │$", capsys.readouterr().out, re.MULTILINE)
    assert [re.split(r"\s+│\s+", row) for row in figures] == [["small", "2", "12.5", "0.5"], ["small", "0.5"]]
