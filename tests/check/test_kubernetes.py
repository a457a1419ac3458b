"""The overlays under k8s/, built by Kustomize and checked against the schemas of KubeRay and Serve."""

import gzip
import importlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from rankfleet.core.config import parse_config

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted((ROOT / "k8s/overlays").iterdir())
CRD = ROOT.parent / "shared/data/k8s/ray.io_rayservices.crd.yaml.gz"
UPGRADES = {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}  # the operator checks these, the CRD does not


@pytest.fixture(scope="module", params=OVERLAYS, ids=lambda overlay: overlay.name)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """All Kubernetes objects of one overlay."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it builds the overlays")
    built = subprocess.run(["kubectl", "kustomize", request.param], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


@pytest.fixture
def service(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (o for o in objects if o["kind"] == "RayService")
    return found


@pytest.fixture
def serve_config(service: dict[str, Any]) -> dict[str, Any]:
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def unknown_keys(model: type[BaseModel], data: dict[str, Any], place: str = "") -> Iterator[str]:
    """Keys that the model would drop silently."""
    for key, value in data.items():
        where = f"{place}.{key}".lstrip(".")
        if key not in model.model_fields:
            yield where
            continue
        inner = next(models_in(model.model_fields[key].annotation), None)
        for part in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(part, dict):
                yield from unknown_keys(inner, part, where)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, list):
        for part in get_args(annotation):
            yield from models_in(part)


def strict(schema: Any) -> Any:
    """A CRD's schema as the API server applies it with `--validate=strict`.

    Unknown keys are errors, quantities may be numbers, and a required key with a default may be left out.
    """
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    closed = {key: strict(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields", False)))
        if required := schema.get("required"):
            closed["required"] = [key for key in required if "default" not in properties[key]]
    return closed


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    """The schema of ray.io/v1 RayService."""
    if not CRD.exists():
        pytest.skip(f"the RayService CRD is not at {CRD}")
    definition = yaml.load(gzip.decompress(CRD.read_bytes()), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    for known in ("metadata", "apiVersion", "kind"):
        schema["properties"][known].pop("properties", None)
    return strict(schema)


def test_the_service_follows_the_crd(service: dict[str, Any], crd: dict[str, Any]) -> None:
    faults = jsonschema.Draft202012Validator(crd).iter_errors(service)
    assert [f"{fault.json_path}: {fault.message[:200]}" for fault in faults] == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["spec", "upgradeStrateg"], {}, "unexpected"),
        (["spec", "rayClusterConfig", "authOptions", "mode"], "tokn", "not one of"),
        (["spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "container"], [], "unexpected"),
        (["spec", "rayClusterConfig", "workerGroupSpecs", 0, "maxReplicas"], "2", "not of type 'integer'"),
    ],
)
def test_the_crd_check_finds_mistakes(
    service: dict[str, Any], crd: dict[str, Any], path: list[str], value: object, message: str
) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(service))
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    faults = [fault.message for fault in jsonschema.Draft202012Validator(crd).iter_errors(wrong)]
    assert any(message in fault for fault in faults), faults


def test_the_service_follows_the_rules_that_the_operator_alone_checks(service: dict[str, Any]) -> None:
    spec = service["spec"]
    cluster = spec["rayClusterConfig"]
    assert spec["upgradeStrategy"]["type"] in UPGRADES
    assert "upgradeStrategy" not in cluster, "refused in a RayCluster that belongs to a RayService"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod.get("restartPolicy", "Never") == "Never", "autoscaler v2 replaces pods and restarts none"
        reserved = {"num-cpus", "num-gpus", "memory", "resources"} & set(group.get("rayStartParams", {}))
        assert not (reserved and group.get("resources")), "resources may be given in one place only"
        environment = {entry["name"] for entry in pod["containers"][0]["env"]}
        assert not environment & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}
        assert len({entry["image"] for g in groups for entry in g["template"]["spec"]["containers"]}) == 1
    for workers in cluster["workerGroupSpecs"]:
        assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_serve_accepts_its_config_and_drops_no_key(serve_config: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(serve_config)
    assert list(unknown_keys(ServeDeploySchema, serve_config)) == []


def test_the_check_for_dropped_keys_finds_them() -> None:
    config = {
        "http_options": {"prt": 8000},
        "applications": [
            {
                "import_path": "a:b",
                "deployments": [
                    {
                        "name": "d",
                        "num_replica": 1,
                        "ray_actor_options": {"num_cpu": 1},
                        "autoscaling_config": {"policy": {"policy_kwarg": {}}},
                        "user_config": {"anything": 1},
                    }
                ],
            }
        ],
    }
    assert list(unknown_keys(ServeDeploySchema, config)) == [
        "http_options.prt",
        "applications.deployments.num_replica",
        "applications.deployments.ray_actor_options.num_cpu",
        "applications.deployments.autoscaling_config.policy.policy_kwarg",
    ]


def test_import_paths_build_the_deployments_that_are_listed(serve_config: dict[str, Any]) -> None:
    for app in serve_config["applications"]:
        module, _, name = app["import_path"].partition(":")
        assert isinstance(getattr(importlib.import_module(module), name)(app["args"]), Application)
        router, *groups = app["deployments"]
        assert router["name"] == "router"
        fleet = parse_config(router["user_config"])
        assert app["args"] == {"groups": sorted(fleet.groups), "in_router": []}
        assert [deployment["name"] for deployment in groups] == list(fleet.groups)
        for deployment in groups:
            assert parse_config(deployment["user_config"]).tiers == fleet.tiers
        policy = app["autoscaling_policy"]
        module, _, name = policy["policy_function"].partition(":")
        assert callable(getattr(importlib.import_module(module), name)(**policy["policy_kwargs"]))


def test_policies_and_monitors_select_the_pods(objects: list[dict[str, Any]], service: dict[str, Any]) -> None:
    cluster = service["spec"]["rayClusterConfig"]
    # KubeRay adds these two labels to what the template has.
    pods = [
        group["template"]["metadata"]["labels"] | {"ray.io/node-type": kind, "ray.io/group": name}
        for group, kind, name in [
            (cluster["headGroupSpec"], "head", "headgroup"),
            *((group, "worker", group["groupName"]) for group in cluster["workerGroupSpecs"]),
        ]
    ]
    selecting = [o for o in objects if o["kind"] in ("NetworkPolicy", "PodMonitor", "PodDisruptionBudget")]
    assert selecting
    for o in selecting:
        wanted = o["spec"].get("podSelector") or o["spec"]["selector"]
        assert any(wanted["matchLabels"].items() <= labels.items() for labels in pods), o["metadata"]["name"]
        ports = {p["name"] for p in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}
        assert {endpoint["port"] for endpoint in o["spec"].get("podMetricsEndpoints", [])} <= ports


def test_the_operator_can_reach_the_dashboard_and_every_pod_can_reach_dns(objects: list[dict[str, Any]]) -> None:
    policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    (operator,) = policies["rankfleet-head"]["ingress"]
    assert operator["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert 8265 in [port["port"] for port in operator["ports"]]
    dns = [rule for rule in policies["rankfleet"]["egress"] if {p["port"] for p in rule.get("ports", [])} == {53}]
    assert {port["protocol"] for rule in dns for port in rule["ports"]} == {"TCP", "UDP"}


def test_redis_is_deployed_where_the_head_relies_on_it(objects: list[dict[str, Any]], service: dict[str, Any]) -> None:
    options = service["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions")
    redis = {o["kind"]: o for o in objects if o["metadata"]["name"] == "rankfleet-redis"}
    assert (options is not None) == bool(redis)
    if options:
        (port,) = redis["Service"]["spec"]["ports"]
        assert options["redisAddress"] == f"rankfleet-redis:{port['port']}"
        (password,) = redis["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["env"]
        assert options["redisPassword"]["valueFrom"] == password["valueFrom"], "both read the same secret"
