"""Predicted quality: tables and the figures of the fleet file."""

import json
from pathlib import Path

import pytest

from rankfleet.core.errors import ConfigError
from rankfleet.estimates.quality import QualityTable, fleet_quality
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
    table = fleet_quality(fleet(candidates="ranked", quality={"retriever": 0.1})).ranked
    assert table.tiers == {"small": 0.3, "medium": 0.4, "large": 0.5}
    assert not table.detailed
    # Half of the candidates, half of the gain.
    assert table.at_depth("large", 50, 100) == pytest.approx(0.3)
    assert table.at_length("large", 128, 0.5) == pytest.approx(0.3)
    assert table.at_depth("large", 0, 100) == 0.1
    assert table.at_depth("large", 100, 100) == 0.5


def test_a_table_replaces_the_figures_that_it_has(tmp_path: Path) -> None:
    table = fleet_quality(fleet(quality={"table": write(tmp_path, TABLE)})).ranked
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
    assert fleet_quality(fleet(quality={"table": stored, "data_set": "shop"})).ranked.tiers["small"] == 0.7
    with pytest.raises(ConfigError, match=r"'news' is not in .*; it has papers, shop"):
        fleet_quality(fleet(quality={"table": stored, "data_set": "news"}))


def test_without_weights_ranked_candidates_have_the_figures_of_the_tiers_alone(tmp_path: Path) -> None:
    quality = fleet_quality(fleet(quality={"table": write(tmp_path, TABLE)}))
    assert (quality.weights, quality.table(True), quality.table(False)) == ({}, quality.ranked, quality.unordered)
    assert (quality.ranked.tiers, quality.ranked.depths) == (quality.unordered.tiers, {"large": {10: 0.4, 100: 0.6}})


def test_of_unordered_candidates_the_first_are_any_and_leaving_them_so_is_worth_nothing(tmp_path: Path) -> None:
    table = fleet_quality(fleet(quality={"table": write(tmp_path, TABLE)})).unordered
    assert (table.retriever, table.depths) == (0.0, {})
    assert table.cascades == {("small", "large"): {20: 0.58}}
    assert table.at_depth("large", 10, 100) == pytest.approx(0.06), "a tenth of 0.6, and not the 0.4 of the best ten"


def test_fused_orders_have_figures_of_their_own(tmp_path: Path) -> None:
    fused = {
        "weights": {"small": 1.5, "large": 0.5},
        "tiers": {"small": 0.45},
        "cascades": {"small>large": {"20": 0.62}},
    }
    content = {"data_sets": {"papers": TABLE["data_sets"]["papers"] | {"fused": fused}}}
    quality = fleet_quality(fleet(quality={"table": write(tmp_path, content)}))
    assert quality.weights == {"small": 1.5, "large": 0.5}
    # large has no figure for its fused order, so that of its scores alone stands.
    assert quality.ranked.tiers == {"small": 0.45, "medium": 0.4, "large": 0.6}
    assert (quality.ranked.retriever, quality.ranked.cascades) == (0.2, {("small", "large"): {20: 0.62}})
    assert quality.ranked.tokens == {"large": {128: 0.55}}
    assert quality.unordered.tiers == {"small": 0.35, "medium": 0.4, "large": 0.6}


@pytest.mark.parametrize(
    "fused",
    [[1], *({"weights": {"small": each}} for each in ([1.5], "much", None, float("nan")))],
)
def test_a_fused_part_that_cannot_be_read_is_refused(tmp_path: Path, fused: object) -> None:
    content = {"data_sets": {"papers": {"fused": fused}}}
    with pytest.raises(ConfigError, match="is not a table of qualities"):
        fleet_quality(fleet(quality={"table": write(tmp_path, content)}))


@pytest.mark.parametrize("content", [[], {}, {"data_sets": {}}, {"data_sets": {"a": {"cascades": {"small": {}}}}}])
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ConfigError, match="is not a table of qualities"):
        fleet_quality(fleet(quality={"table": write(tmp_path, content)}))


def test_a_missing_table_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"quality.table /nothing.json: No such file"):
        fleet_quality(fleet(quality={"table": "/nothing.json"}))
