"""A fleet as Ray Serve's own schema and its own builder take it."""

from pathlib import Path
from typing import Any

import pytest
from ray.serve import Application
from ray.serve._private.build_app import build_app
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import ServeDeploySchema

from rankfleet.cluster.autoscaling_policy import FleetPolicy
from rankfleet.cluster.build import build
from rankfleet.cluster.deployment_options import AUTOSCALING_TIMES, group_options
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.request_router import LeastWorkRouter
from rankfleet.cluster.serve_config import serve_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import read_config
from tests.unit.fakes import fleet

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def asleep() -> FleetConfig:
    """A fleet whose one group may have no replica, and needs a custom resource."""
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 2}, "resources": {"nvme": 1}}
    return fleet(groups={"demo": group})


def in_router(**changes: object) -> FleetConfig:
    """A fleet with one group in the router and one with replicas."""
    groups = {"fast": {"tiers": ["small"], "in_router": True, "cpus": 1.5}, "slow": {"tiers": ["medium", "large"]}}
    return fleet(groups=groups, router_cpus=0.5, **changes)


FLEETS = {path.stem: read_config(path) for path in CONFIGS} | {"asleep": asleep(), "in_router": in_router()}


def lost(sent: Any, kept: Any, place: str = "") -> list[str]:
    """Where what Serve has kept differs from what it was sent. Keys that it adds are its defaults."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return [where for key, value in sent.items() for where in lost(value, kept.get(key), f"{place}.{key}")]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        return [where for i, (a, b) in enumerate(zip(sent, kept, strict=True)) for where in lost(a, b, f"{place}.{i}")]
    return [] if sent == kept else [place]


@pytest.mark.parametrize("name", FLEETS)
def test_serve_accepts_a_fleet_and_keeps_every_key(name: str) -> None:
    config = serve_config(FLEETS[name], host="127.0.0.1", port=8123)
    kept = ServeDeploySchema.model_validate(config).model_dump(mode="json", exclude_unset=True)
    assert lost(config, kept) == []


def test_a_key_that_serve_does_not_know_would_be_noticed() -> None:
    """Serve ignores it without a word."""
    config = serve_config(fleet())
    config["applications"][0]["deployments"][0]["max_ongoing"] = 3
    kept = ServeDeploySchema.model_validate(config).model_dump(mode="json", exclude_unset=True)
    assert lost(config, kept) == [".applications.0.deployments.0.max_ongoing"]


def test_classes_are_found_by_the_names_that_serve_is_given() -> None:
    router_config = RequestRouterConfig(**group_options(fleet(), "demo")["request_router_config"])
    assert router_config.get_request_router_class() is LeastWorkRouter
    policy = AutoscalingPolicy(**serve_config(fleet())["applications"][0]["autoscaling_policy"])
    assert isinstance(policy.get_policy()(**policy.policy_kwargs), FleetPolicy)


def test_serves_own_autoscaling_adds_no_delay() -> None:
    config = AutoscalingConfig(**group_options(asleep(), "demo")["autoscaling_config"])
    assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (0, 2, 1)
    assert (config.upscale_delay_s, config.downscale_delay_s) == (0.0, 0.0)
    assert AUTOSCALING_TIMES["look_back_period_s"] > AUTOSCALING_TIMES["metrics_interval_s"]


def built(application: Application) -> dict[str, Any]:
    """The deployments of an application by name, as Serve builds it, and how their constructors are called."""
    app = build_app(application, name="rankfleet", make_deployment_handle=lambda deployment, app: deployment.name)
    assert app.ingress_deployment_name == "router"
    return {deployment.name: deployment for deployment in app.deployments}


def test_a_group_in_the_router_has_no_deployment_and_its_cores_are_the_routers() -> None:
    application = serve_config(in_router())["applications"][0]
    assert application["args"] == {"groups": ["slow"], "in_router": ["fast"]}
    router, slow = application["deployments"]
    assert (router["name"], router["ray_actor_options"]) == ("router", {"num_cpus": 2.0})
    assert (slow["name"], slow["ray_actor_options"]) == ("slow", {"num_cpus": 1.0, "num_gpus": 0.0})


def test_a_fleet_may_be_in_the_router_as_a_whole() -> None:
    whole = fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "in_router": True}})
    application = serve_config(whole)["applications"][0]
    assert [deployment["name"] for deployment in application["deployments"]] == ["router"]
    assert set(built(build(application["args"]))) == {"router"}


def test_names_of_groups_build_a_router_and_each_group() -> None:
    deployments = built(build({"groups": ["cpu", "gpu"], "in_router": ["fast"]}))
    assert set(deployments) == {"router", "cpu", "gpu"}
    assert deployments["router"].init_kwargs == {"cpu": "cpu", "gpu": "gpu"}, "a handle by the name of each group"
    assert deployments["router"].init_args == ({"fast": ReplicaGroup},)
    assert [deployments[name].init_args for name in ("cpu", "gpu")] == [("cpu",), ("gpu",)]
