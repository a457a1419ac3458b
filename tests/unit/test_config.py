"""Reading fleet files, and what is said of wrong ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.fleet_file import parse_config, read_config
from tests.unit.fakes import fleet

CONFIGS = Path(__file__).parents[2] / "configs"
COMMITS = {  # of the hub's repositories: the revisions in mteb 2.26 (model_implementations/ettin_models.py)
    "cross-encoder/ettin-reranker-17m-v1": "9e4aa35321a6dd1a43ca313f500c4b4f7cfb5cc6",
    "cross-encoder/ettin-reranker-32m-v1": "b33e5ceb5110773ea9cf5e00c9bedc83a8c2afdd",
    "cross-encoder/ettin-reranker-68m-v1": "d166fa88ddde3c42bc3ee92f7df476d941c8204a",
    "cross-encoder/ettin-reranker-150m-v1": "025501c4e0f9bbeb4c5b198318e0089ff061cc14",
    "cross-encoder/ettin-reranker-400m-v1": "5dca36282a5d85f368d2544002513a29159b4c9e",
    "cross-encoder/ettin-reranker-1b-v1": "7d20e9baad17016fdf5549c08f69a2d7ca3e60c3",
}

GOOD: dict[str, Any] = {
    "tiers": {"small": {"model": "demo/small", "quality": 0.3}},
    "groups": {"demo": {"tiers": ["small"]}},
}


IN_ROUTER: dict[str, Any] = {"tiers": ["small"], "in_router": True}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_fleet_files_are_valid(path: Path) -> None:
    config = read_config(path)
    assert config.group_of(next(iter(config.tiers))) in config.groups


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_fleet_files_pin_the_models_of_the_hub(path: Path) -> None:
    """Without a revision, replicas that start at different times could load different models."""
    of_the_hub = [tier for tier in read_config(path).tiers.values() if not tier.model.startswith("demo/")]
    assert [tier.revision for tier in of_the_hub] == [COMMITS[tier.model] for tier in of_the_hub]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tier": {}}, "fleet: tier: unknown key"),
        ({"tiers": {}}, "fleet: tiers: Dictionary should have at least 1 item"),
        (
            {"tiers": {"small": {"model": "m", "quality": 2}}},
            "tiers.small.quality: Input should be less than or equal to 1",
        ),
        ({"tiers": {"small": {"model": "m", "quality": float("nan")}}}, "tiers.small.quality"),
        ({"tiers": {"auto": {"model": "m", "quality": 0.5}}}, "'auto' is reserved"),
        ({"groups": {"config": {"tiers": ["small"]}}}, "groups: 'config' is reserved; give the group another name"),
        ({"groups": {"router": {"tiers": ["small"]}}}, "groups: 'router' is reserved"),
        ({"groups": {"self": {"tiers": ["small"]}}}, "groups: 'self' is reserved"),
        ({"groups": {"demo": {"tiers": ["small", "big"]}}}, "groups.demo hosts 'big', which is not under tiers: small"),
        ({"groups": {"a": {"tiers": ["small"]}, "b": {"tiers": ["small"]}}}, "tier 'small' is in groups a and b"),
        ({"groups": {"demo": {"tiers": ["small"], "replicas": {"min": 3, "max": 2}}}}, "min (3) is above max (2)"),
        ({"groups": {"demo": {"tiers": ["small"], "cpu": 1}}}, "groups.demo.cpu: unknown key"),
        (
            {"groups": {"demo": IN_ROUTER | {"replicas": {"min": 0}}}},
            "groups.demo: remove replicas, or in_router",
        ),
        ({"groups": {"demo": IN_ROUTER | {"gpus": 1}}}, "fleet: groups.demo: remove gpus, or in_router"),
        ({"groups": {"demo": IN_ROUTER | {"resources": {"nvme": 1}}}}, "groups.demo: remove resources, or in_router"),
        (
            {"groups": {"demo": IN_ROUTER}, "autoscaling": {"groups": {"demo": {"drain_s": 1}}}},
            "autoscaling.groups: demo is hosted in the router and not scaled apart",
        ),
        ({"scheduling": {"patient_share": 0.1}}, "scheduling.patient_share: was renamed to best_effort_share"),
        ({"routing": {"crowd_window": 0.2}}, "routing.crowd_window: was renamed to arrival_window"),
        ({"autoscaling": {"hold_s": 60}}, "autoscaling.hold_s: was renamed to downscale_window_s"),
        ({"autoscaling": {"rarely": 0.1}}, "autoscaling.rarely: was renamed to idle_utilisation"),
        ({"updates": {"drain_s": 10}}, "updates.drain_s: was renamed to graceful_shutdown_timeout_s"),
        ({"slo_classes": {"small": {"slo_ms": 50}}}, "small: an SLO class may not have the name of a tier"),
        (
            {"quality": {"retriever": 0.45}},
            "quality.retriever is the quality of the order in which documents come; add `candidates: ranked`",
        ),
        ({"candidates": "sorted"}, "candidates: Input should be 'ranked' or 'unordered'"),
        ({"default_slo_class": "fast"}, "default_slo_class 'fast' is not under slo_classes"),
        ({"default_model": "big"}, "default_model 'big' is none of auto, small"),
        ({"slo_classes": {"fast": {"slo_ms": 0}}}, "slo_classes.fast.slo_ms: a budget is in milliseconds"),
        ({"slo_classes": {"/fast": {"slo_ms": 9}}}, "slo_classes./fast"),
        ({"tiers": {"a/b": {"model": "demo/small", "quality": 0.3}}}, "tiers.a/b"),
        ({"experiments": {"e": {"arms": {"a": {"model": "big", "weight": 1}}}}}, "experiments.e.arms.a: no tier"),
        ({"experiments": {"e": {"arms": {"a": {"model": "small", "weight": 0}}}}}, "all weights are 0"),
        (
            {"tenants": {"shop": {}}, "experiments": {"e": {"tenants": ["blog"], "arms": {"a": {"weight": 1}}}}},
            "experiments.e.tenants: blog is not under tenants",
        ),
    ],
)
def test_an_error_names_the_wrong_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as fault:
        parse_config(GOOD | change, "fleet")
    assert message in str(fault.value)


def test_every_tier_needs_a_group() -> None:
    tiers = {"small": {"model": "m", "quality": 0.5}, "big": {"model": "n", "quality": 0.6}}
    with pytest.raises(ConfigError, match="no group hosts big"):
        parse_config(GOOD | {"tiers": tiers})


@pytest.mark.parametrize("text", ["tiers: [", "- 1\n- 2", "", "\x00", "just words"])
def test_files_that_are_not_fleet_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"fleet\.yaml"):
        read_config(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.yaml")


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, place = tmp_path / "home", tmp_path / "fleets"
    monkeypatch.setenv("HOME", str(home))
    (place / "models" / "mine").mkdir(parents=True)
    models = {
        "./a": f"{place}/a",
        "../a": f"{tmp_path}/a",
        "a": f"{place}/a",
        "a/b/c": f"{place}/a/b/c",
        "models/mine": f"{place}/models/mine",  # it is there
        "models/other": "models/other",  # it is not: a hub id
        "demo/small": "demo/small",
        "~/a": f"{home}/a",
        "/a/b": "/a/b",
    }
    tiers = {f"t{i}": {"model": model, "quality": 0.3} for i, model in enumerate(models)}
    settings = {"tiers": tiers, "groups": {"demo": {"tiers": list(tiers)}}}
    files = {"profile": "~/p.json", "quality": {"table": "t.json"}, "search": {"index": "~/index"}}
    files["decision_log"] = files["events"] = {"folder": "written"}
    path = place / "fleet.yaml"
    path.write_text(yaml.safe_dump(settings | files))
    config = read_config(path)
    assert [tier.model for tier in config.tiers.values()] == list(models.values())
    assert config.profile == f"{home}/p.json"
    assert config.quality.table == f"{place}/t.json"
    assert config.decision_log.folder == config.events.folder == f"{place}/written"
    assert config.search is not None
    assert config.search.index == f"{home}/index"


def test_a_url_is_no_path(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"events": {"folder": "s3://bucket/events"}}))
    assert read_config(path).events.folder == "s3://bucket/events"


def test_an_unknown_home_folder_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"profile": "~no-such-user/p.json"}))
    with pytest.raises(ConfigError, match=r"profile: ~no-such-user/p.json: the home folder is unknown"):
        read_config(path)


def test_a_default_model_has_to_exist() -> None:
    with pytest.raises(ConfigError, match="default_model 'huge'"):
        fleet(default_model="huge")


def test_a_config_can_be_read_back_from_its_json() -> None:
    config = fleet(slo_classes={"batch": {"slo_ms": None}})
    assert parse_config(config.model_dump(mode="json")) == config
    assert isinstance(config, FleetConfig)


def test_an_slo_class_may_be_called_like_a_model() -> None:
    name = "BAAI/bge-reranker-v2-m3"
    assert fleet(slo_classes={name: {"slo_ms": 80}}, default_slo_class=name).slo_classes[name].slo_ms == 80
