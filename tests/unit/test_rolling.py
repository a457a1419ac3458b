"""Which changes of a fleet file would roll replicas on Kubernetes, by the hashes that Serve's controller compares."""

from typing import Any

import pytest
import yaml
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve._private.version import DeploymentVersion
from ray.serve.schema import ServeApplicationSchema

from rankfleet.core.config import FleetConfig
from rankfleet.k8s.cluster_file import ClusterFile
from rankfleet.k8s.contents import contents
from rankfleet.k8s.service import ray_service
from tests.unit.fakes import fleet

CLUSTER = ClusterFile()
DEPLOYMENT_OPTIONS = (
    "max_ongoing_requests",
    "graceful_shutdown_timeout_s",
    "graceful_shutdown_wait_loop_s",
    "user_config",
)


def service(config: FleetConfig) -> dict[str, Any]:
    return ray_service(contents(config, CLUSTER), CLUSTER)


def versions(config: FleetConfig) -> dict[str, DeploymentVersion]:
    """The version of each deployment, as the controller makes it of the config that KubeRay sends."""
    (application,) = yaml.safe_load(service(config)["spec"]["serveConfigV2"])["applications"]
    code = get_app_code_version(ServeApplicationSchema.model_validate(application))
    return {
        deployment["name"]: DeploymentVersion(
            code,
            DeploymentConfig(**{option: deployment[option] for option in DEPLOYMENT_OPTIONS}),
            deployment["ray_actor_options"],
            max_replicas_per_node=deployment.get("max_replicas_per_node"),
        )
        for deployment in application["deployments"]
    }


def changed(**changes: Any) -> tuple[set[str], set[str]]:
    """The deployments whose replicas would restart, and those whose replicas get a new `user_config` alone."""
    before, after = versions(fleet()), versions(fleet(**changes))
    restart = {name for name in before if before[name].requires_actor_restart(after[name])}
    return restart, {name for name in before if before[name].requires_actor_reconfigure(after[name])} - restart


def new_cluster(**changes: Any) -> bool:
    """Whether KubeRay would start a second cluster: whether anything changes beside Serve's config, the strategy, and
    what it leaves out when it compares."""

    def compared(config: FleetConfig) -> Any:
        cluster = service(config)["spec"]["rayClusterConfig"]
        for group in cluster["workerGroupSpecs"]:
            for left_out in ("replicas", "minReplicas", "maxReplicas"):
                del group[left_out]
        return cluster

    return bool(compared(fleet()) != compared(fleet(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"slo_classes": {"fast": {"slo_ms": 40}}},
        {"experiments": {"size": {"arms": {"a": {"model": "small", "weight": 1}}}}},
        {"default_model": "large"},
        {"tenants": {"shop": {"share": 0.5}}},
        {"autoscaling": {"utilisation": 0.5}},
        {"decision_log": {"folder": "/var/cache/rankfleet/log"}},
        {"events": {"folder": "s3://bucket/events"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_live_settings_roll_no_replica_and_reach_the_router_alone(changes: dict[str, Any]) -> None:
    assert changed(**changes) == (set(), {"router"})
    assert not new_cluster(**changes)


def test_a_model_that_changes_is_loaded_beside_the_one_that_serves() -> None:
    tiers = {name: {"model": "demo/small", "quality": 0.4} for name in ("small", "medium", "large")}
    assert changed(tiers=tiers) == (set(), {"router", "demo"})
    assert not new_cluster(tiers=tiers)


def test_what_pods_are_made_of_starts_a_second_cluster() -> None:
    def demo(**settings: Any) -> dict[str, Any]:
        return {"groups": {"demo": {"tiers": ["small", "medium", "large"]} | settings}}

    assert changed(**demo(cpus=2))[0] == {"demo"}
    for changes in (demo(cpus=2), demo(replicas={"min": 1, "max": 8}), {"routers": 2}):
        assert new_cluster(**changes)
    assert not new_cluster(**demo(replicas={"min": 0, "max": 1}))
