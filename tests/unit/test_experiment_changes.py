"""Changes of experiments in a running fleet."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from rankfleet.cli.experiment import parse_weights
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.experiment_changes import with_stop, with_weights
from rankfleet.k8s.live_change import live_patch
from rankfleet.k8s.service import kube_serve_config
from rankfleet.k8s.yaml_text import to_yaml
from rankfleet.router.experiments import Split
from tests.unit.fakes import fleet

NOW = datetime(2026, 12, 2, 12, 30, 15, 123456, tzinfo=UTC)
DEC_1, DEC_3 = "2026-12-01T00:00:00Z", "2026-12-03T00:00:00Z"


def config() -> FleetConfig:
    arms = {name: {"weight": weight} for name, weight in {"control": 80, "a": 10, "b": 10}.items()}
    schedule = [{"at": DEC_1, "weights": {"control": 70, "a": 20}}, {"at": DEC_3, "weights": {"a": 50}}]
    return fleet(experiments={"size": {"arms": arms, "schedule": schedule}})


def arms_of(config: FleetConfig, now: datetime) -> dict[str, str]:
    split = Split("size", config.experiments["size"])
    return {f"user-{i}": split.assign(f"user-{i}", now.timestamp()).arm for i in range(2000)}


def test_new_weights_are_a_step_from_now_on_and_later_steps_are_dropped() -> None:
    changed = with_weights(config(), "size", {"a": 5}, NOW).experiments["size"]
    assert [step.at for step in changed.schedule] == [datetime(2026, 12, 1, tzinfo=UTC), NOW]
    assert list(changed.all_weights())[-1] == {"control": 70, "a": 5, "b": 10}


def test_new_weights_of_three_arms_move_only_the_units_they_must() -> None:
    before = arms_of(config(), NOW)
    after = arms_of(with_weights(config(), "size", {"control": 60, "b": 20}, NOW), NOW + timedelta(seconds=1))
    moved = {(before[user], after[user]) for user in before if before[user] != after[user]}
    assert moved == {("control", "b")}


def test_a_stopped_arm_gives_its_units_to_the_control_and_no_other_unit_moves() -> None:
    before = arms_of(config(), NOW)
    after = arms_of(with_stop(config(), "size", "b"), NOW)
    assert {arm for user, arm in after.items() if before[user] == "b"} == {"control"}
    assert all(after[user] == before[user] for user in before if before[user] != "b")


def test_a_stopped_experiment_has_nobody() -> None:
    assert with_stop(config(), "size", None).experiments["size"].stopped


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("other", {"a": 1.0}, "there is no experiment 'other'; this fleet has size"),
        ("size", {"c": 1.0}, "experiment size has no arm 'c'; it has control, a, b"),
        ("size", {"control": 0.0, "a": 0.0, "b": 0.0}, "experiments.size: schedule.1: all weights are 0"),
        ("size", {"a": -1.0}, "should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_changed_is_refused(name: str, weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_weights(config(), name, weights, NOW)


def test_the_control_alone_cannot_be_stopped() -> None:
    with pytest.raises(ConfigError, match="control is the control, which stopped arms fall back to"):
        with_stop(config(), "size", "control")


def test_weights_on_the_command_line() -> None:
    assert parse_weights(["a=10", "b=0.5"]) == {"a": 10.0, "b": 0.5}
    with pytest.raises(ConfigError, match="a:10: give ARM=WEIGHT, such as small=10"):
        parse_weights(["a:10"])


def rayservice(config: FleetConfig) -> dict[str, Any]:
    return {"kind": "RayService", "spec": {"serveConfigV2": to_yaml(kube_serve_config(config))}}


def test_on_kubernetes_a_change_is_a_patch_of_the_routers_settings_alone() -> None:
    text = json.dumps(rayservice(config()))
    patch = live_patch(text, lambda running: with_weights(running, "size", {"a": 5}, NOW))
    assert list(patch) == ["spec"]
    assert list(patch["spec"]) == ["serveConfigV2"]
    before, after = (yaml.safe_load(each["spec"]["serveConfigV2"]) for each in (rayservice(config()), patch))
    (step,) = after["applications"][0]["deployments"][0]["user_config"]["experiments"]["size"]["schedule"][1:]
    assert step["weights"] == {"a": 5.0}
    for whole in (before, after):
        del whole["applications"][0]["deployments"][0]["user_config"]["experiments"]
    assert after == before


@pytest.mark.parametrize("text", ["", "{}", '{"spec": {"serveConfigV2": "applications: []"}}'])
def test_what_is_no_rayservice_of_a_fleet_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="this is no RayService of a fleet"):
        live_patch(text, lambda same: same)
