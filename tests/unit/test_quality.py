"""Predicted quality: tables and the figures of the fleet file."""

import json
from pathlib import Path

import pytest

from rankfleet.core.errors import ConfigError
from rankfleet.estimates.quality import QualityTable, quality_table
from tests.unit.fakes import fleet

TABLE = {
    "data_sets": {
        "papers": {
            "retriever": 0.2,
            "tiers": {"small": 0.35, "large": {"10": 0.4, "100": 0.6}},
            "tokens": {"large": {"128": 0.55}},
            "cascades": {"small>large": {"20": 0.58}, "small>huge": {"20": 0.7}},
        },
        "shop": {"tiers": {"small": 0.7}},
    }
}


def write(folder: Path, content: object) -> str:
    path = folder / "quality.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_without_a_table_the_figures_of_the_fleet_file_hold() -> None:
    table = quality_table(fleet(quality={"retriever": 0.1}))
    assert table.tiers == {"small": 0.3, "medium": 0.4, "large": 0.5}
    assert not table.detailed
    # Half of the candidates, half of the gain.
    assert table.at_depth("large", 50, 100) == pytest.approx(0.3)
    assert table.at_length("large", 128, 0.5) == pytest.approx(0.3)
    assert table.at_depth("large", 0, 100) == 0.1
    assert table.at_depth("large", 100, 100) == 0.5


def test_a_table_replaces_the_figures_that_it_has(tmp_path: Path) -> None:
    table = quality_table(fleet(quality={"table": write(tmp_path, TABLE)}))
    assert table.tiers == {"small": 0.35, "medium": 0.4, "large": 0.6}
    assert table.retriever == 0.2
    assert table.cascades == {("small", "large"): {20: 0.58}}
    assert table.at_length("large", 128, 0.1) == 0.55


def test_quality_is_linear_in_the_logarithm_of_depth() -> None:
    table = QualityTable({"large": 0.6}, 0.2, {"large": {10: 0.4, 1000: 0.6}})
    assert [table.at_depth("large", k, 5000) for k in (1, 10, 100, 1000, 2000)] == pytest.approx(
        [0.2, 0.4, 0.5, 0.6, 0.6]
    )


def test_a_cascade_has_the_quality_of_the_deepest_depth_in_the_table_that_is_reached() -> None:
    table = QualityTable({"small": 0.3, "large": 0.5}, cascades={("small", "large"): {10: 0.42, 50: 0.48}})
    assert [table.of_cascade("small", "large", scored) for scored in (5, 10, 49, 50, 80)] == [
        *(0.3, 0.42, 0.42, 0.48, 0.48)
    ]


def test_the_table_is_that_of_the_data_set_named(tmp_path: Path) -> None:
    stored = write(tmp_path, TABLE)
    assert quality_table(fleet(quality={"table": stored, "data_set": "shop"})).tiers["small"] == 0.7
    with pytest.raises(ConfigError, match=r"'news' is not in .*; it has papers, shop"):
        quality_table(fleet(quality={"table": stored, "data_set": "news"}))


@pytest.mark.parametrize("content", [[], {}, {"data_sets": {}}, {"data_sets": {"a": {"cascades": {"small": {}}}}}])
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ConfigError, match="is not a table of qualities"):
        quality_table(fleet(quality={"table": write(tmp_path, content)}))


def test_a_missing_table_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"quality.table /nothing.json: No such file"):
        quality_table(fleet(quality={"table": "/nothing.json"}))
