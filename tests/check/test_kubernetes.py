"""Rendered fleets as Kustomize and Helm build them, against schemas, the operator's rules, and each other."""

import importlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from rankfleet.cli.k8s import k8s_app
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from tests.check.conftest import ROOT
from tests.check.kubernetes_schemas import CRD, ray_service_schema, unknown_keys
from tests.check.kubernetes_tools import tool

KUBERNETES = ("1.32", "1.36")  # the schemas that objects have to follow
# Every option of a cluster file, beside those of the shipped ones.
EVERYTHING = {
    "name": "mine",
    "image": "registry.example.org/rankfleet:7",
    "image_pull_secrets": ["registry"],
    "user_id": 4711,
    "hub": {"secret": "hub", "port": 8443},
    "proxy": {"url": "http://proxy.example.org:3128", "no_proxy": ["10.0.0.0/8"]},
    "volumes": [{"path": "/data", "claim": "data", "read_only": False}],
    "redis": True,
    "redis_image": "registry.example.org/redis:7.4",
    "redis_storage_class": "fast",
    "monitoring": True,
    "monitoring_labels": {"release": "prometheus"},
    "route": {"gateway": "public", "gateway_namespace": "gateways", "host": "rerank.example.org"},
    "pools": {"gpu": {"memory_gib": 24, "max_pods": 9, "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
}
FLEETS = {
    "demo": ("demo", None),
    "single-gpu": ("gpu", None),
    "fleet": ("fleet", "fleet"),
    "production": ("production", "production"),
    "incremental": ("production", "incremental"),
    "everything": ("sim-fleet", "everything.yaml"),
}
# Secrets that people create, or cert-manager does: the page names each.
SECRETS = {"keys", "redis", "hub", "tls", "registry"}
# What may be a label's key and value; the operator refuses groups with others.
LABEL = (
    re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"),
    re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?"),
)
UPGRADES = {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}  # the operator checks these, the CRD does not


@dataclass(frozen=True)
class Built:
    """One rendered fleet. `objects`: as Kustomize builds them. `folder`: of its files. `overlay`: its name."""

    objects: list[dict[str, Any]]
    folder: Path
    overlay: str

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [o for o in self.objects if o["kind"] == kind]

    @property
    def service(self) -> dict[str, Any]:
        (found,) = self.kind("RayService")
        return found

    @property
    def cluster(self) -> dict[str, Any]:
        cluster: dict[str, Any] = self.service["spec"]["rayClusterConfig"]
        return cluster

    @property
    def serve_config(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load(self.service["spec"]["serveConfigV2"])
        return config

    @property
    def deployments(self) -> list[dict[str, Any]]:
        return list(self.serve_config["applications"][0]["deployments"])

    @property
    def fleet(self) -> FleetConfig:
        return parse_config(self.deployments[0]["user_config"])

    @property
    def pods(self) -> list[dict[str, Any]]:
        """All pods as objects, with the labels that KubeRay adds."""
        groups = [(self.cluster["headGroupSpec"], "head", "headgroup")]
        groups += [(group, "worker", group["groupName"]) for group in self.cluster["workerGroupSpecs"]]
        pods = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": group["template"]["metadata"]["labels"]
                    | {"ray.io/node-type": kind, "ray.io/group": name, "ray.io/cluster": "c"},
                },
                "spec": group["template"]["spec"],
            }
            for group, kind, name in groups
        ]
        for o in self.kind("StatefulSet"):
            template = o["spec"]["template"]
            metadata = template["metadata"] | {"name": o["metadata"]["name"]}
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        return pods


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def helm(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    found = tool("helm")
    if found is None:
        pytest.skip("no Helm: run python -m tests.check.kubernetes_tools")
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module", params=FLEETS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp(request.param)
    config, cluster = FLEETS[request.param]
    arguments = ["render", "--config", config, "--out", str(folder), "--overlay", request.param, "--helm"]
    if cluster == "everything.yaml":
        (folder / cluster).write_text(json.dumps(EVERYTHING))
        cluster = str(folder / cluster)
    done = CliRunner().invoke(k8s_app, arguments + (["--cluster", cluster] if cluster else []))
    assert done.exit_code == 0, done.output
    try:
        text = run("kubectl", "kustomize", folder / "overlays" / request.param)
    except FileNotFoundError:
        pytest.skip("kubectl is not installed; it builds the overlays")
    return Built(list(yaml.safe_load_all(text)), folder, request.param)


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_of_kubernetes_follow_its_schemas(built: Built, version: str) -> None:
    own = [o for o in built.objects if "ray.io" not in o["apiVersion"] and "coreos" not in o["apiVersion"]]
    for o in [*own, *built.pods]:
        if o["kind"] != "HTTPRoute":
            kubernetes_validate.validate(o, version, strict=True)


def test_the_schemas_of_kubernetes_find_mistakes(built: Built) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(built.pods[0]))
    wrong["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    if not CRD.exists():
        pytest.skip(f"the RayService CRD is not at {CRD}; RAYSERVICE_CRD names another place")
    return ray_service_schema()


def test_the_service_follows_the_crd(built: Built, crd: dict[str, Any]) -> None:
    faults = jsonschema.Draft202012Validator(crd).iter_errors(built.service)
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
    built: Built, crd: dict[str, Any], path: list[str], value: object, message: str
) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(built.service))
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    faults = [fault.message for fault in jsonschema.Draft202012Validator(crd).iter_errors(wrong)]
    assert any(message in fault for fault in faults), faults


def test_the_service_follows_the_rules_that_the_operator_alone_checks(built: Built) -> None:
    spec, cluster = built.service["spec"], built.cluster
    strategy = spec["upgradeStrategy"]
    assert strategy["type"] in UPGRADES
    assert ("clusterUpgradeOptions" in strategy) == (strategy["type"] == "NewClusterWithIncrementalUpgrade")
    if steps := strategy.get("clusterUpgradeOptions"):
        assert cluster["enableInTreeAutoscaling"]
        assert 0 < steps["stepSizePercent"] <= steps["maxSurgePercent"] <= 100
    assert "upgradeStrategy" not in cluster, "refused in a RayCluster that belongs to a RayService"
    assert re.fullmatch("[a-z]([-a-z0-9]{0,45}[a-z0-9])?", built.service["metadata"]["name"])
    assert "headService" not in cluster["headGroupSpec"], "KubeRay names it"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod.get("restartPolicy", "Never") == "Never", "autoscaler v2 replaces pods and restarts none"
        reserved = {"num-cpus", "num-gpus", "memory", "resources"} & set(group.get("rayStartParams", {}))
        assert not (reserved and group.get("resources")), "resources may be given in one place only"
        assert "labels" not in group.get("rayStartParams", {}), "labels have a field of their own"
        for pair in group.get("labels", {}).items():
            assert all(pattern.fullmatch(text) for pattern, text in zip(LABEL, pair, strict=True)), pair
        environment = {entry["name"] for entry in pod["containers"][0]["env"]}
        assert not environment & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}
    assert len({c["image"] for group in groups for c in group["template"]["spec"]["containers"]}) == 1
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    assert len(names) == len(set(names))
    for workers in cluster["workerGroupSpecs"]:
        assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
        ready = [port["name"] for port in workers["template"]["spec"]["containers"][0]["ports"]]
        assert "serve" in ready, "KubeRay's service finds the port by name"


def test_serve_accepts_its_config_and_drops_no_key(built: Built) -> None:
    ServeDeploySchema.model_validate(built.serve_config)
    assert list(unknown_keys(ServeDeploySchema, built.serve_config)) == []


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


def test_import_paths_build_the_deployments_that_are_listed(built: Built) -> None:
    (app,) = built.serve_config["applications"]
    module, _, name = app["import_path"].partition(":")
    assert isinstance(getattr(importlib.import_module(module), name)(app["args"]), Application)
    router, *groups = app["deployments"]
    assert router["name"] == "router"
    fleet = built.fleet
    assert app["args"] == {"groups": sorted(fleet.groups), "in_router": []}
    assert [deployment["name"] for deployment in groups] == list(fleet.groups)
    for deployment in groups:
        assert parse_config(deployment["user_config"]).tiers == fleet.tiers
    policy = app["autoscaling_policy"]
    module, _, name = policy["policy_function"].partition(":")
    assert callable(getattr(importlib.import_module(module), name)(**policy["policy_kwargs"]))


def values_of(data: Any, key: str) -> Iterator[Any]:
    """Every value of this key, at any depth."""
    if isinstance(data, dict):
        if key in data:
            yield data[key]
        for value in data.values():
            yield from values_of(value, key)
    elif isinstance(data, list):
        for value in data:
            yield from values_of(value, key)


def test_every_secret_config_map_claim_and_service_is_there_or_asked_of_people(built: Built) -> None:
    name = built.service["metadata"]["name"]
    header = (built.folder / f"overlays/{built.overlay}/rayservice.yaml").read_text().partition("apiVersion")[0]
    secrets = {reference["name"] for reference in values_of(built.objects, "secretKeyRef")}
    secrets |= set(values_of(built.objects, "secretName"))
    secrets |= {secret["name"] for secrets in values_of(built.objects, "imagePullSecrets") for secret in secrets}
    assert {secret.removeprefix(f"{name}-").removeprefix("rankfleet-") for secret in secrets} <= SECRETS
    for secret in secrets - {"registry", "rankfleet-tls"}:
        assert f"#   {secret} with" in header, "the rendered file says what it waits for"
    mounted = {volume["name"] for volume in values_of(built.objects, "configMap")}
    assert mounted == {o["metadata"]["name"] for o in built.kind("ConfigMap")}
    assert {claim["claimName"] for claim in values_of(built.objects, "persistentVolumeClaim")} <= {"data"}
    services = {o["metadata"]["name"] for o in built.kind("Service")} | {f"{name}-serve-svc"}
    asked = {backend["name"] for o in built.kind("Ingress") for backend in values_of(o, "service")}
    asked |= {
        backend["name"] for o in built.kind("HTTPRoute") for refs in values_of(o, "backendRefs") for backend in refs
    }
    asked |= {address.partition(":")[0] for address in values_of(built.cluster, "redisAddress")}
    assert asked <= services


def test_every_file_that_the_fleet_file_names_is_mounted_or_in_the_package(built: Built) -> None:
    fleet = built.fleet
    workers = [pod for pod in built.pods if pod["metadata"]["labels"].get("ray.io/node-type") == "worker"]
    for path in filter(None, (fleet.profile, fleet.quality.table, fleet.keys)):
        for pod in workers:
            mounts = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
            is_router = pod["metadata"]["name"] == "router"
            if path.startswith("/") and (is_router or path != fleet.keys):
                assert any(path.startswith(f"{mount}/") for mount in mounts), path
    for o in built.kind("ConfigMap"):
        assert {Path(path).name for path in (fleet.profile, fleet.quality.table) if path} == set(o["data"])


def test_volumes_and_mounts_match(built: Built) -> None:
    for pod in built.pods:
        (container,) = pod["spec"]["containers"]
        claims = {"data"} if pod["metadata"]["name"].endswith("-redis") else set()  # of the StatefulSet
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | claims
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    options = built.cluster["autoscalerOptions"]
    head = {volume["name"] for volume in built.cluster["headGroupSpec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in options["volumeMounts"]} <= head


def test_policies_monitors_budgets_and_services_select_pods_and_their_ports(built: Built) -> None:
    selecting = [
        o for o in built.objects if o["kind"] in ("NetworkPolicy", "PodMonitor", "PodDisruptionBudget", "Service")
    ]
    assert selecting
    for o in selecting:
        selector = o["spec"].get("podSelector") or o["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        selected = [pod for pod in built.pods if wanted.items() <= pod["metadata"]["labels"].items()]
        assert selected, o["metadata"]["name"]
        ports = [port for pod in selected for port in pod["spec"]["containers"][0]["ports"]]
        named = {endpoint["port"] for endpoint in o["spec"].get("podMetricsEndpoints", [])}
        assert named <= {port["name"] for port in ports}
        numbers = {port["port"] for rule in o["spec"].get("ingress", []) for port in rule.get("ports", [])}
        assert numbers <= {port["containerPort"] for port in ports}
    for pod in built.pods:
        for constraint in pod["spec"].get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            assert set(constraint["matchLabelKeys"]) <= set(pod["metadata"]["labels"])
    for budget in built.kind("PodDisruptionBudget"):
        (pool,) = values_of(budget, "rankfleet/pool")
        pods = sum(g["minReplicas"] for g in built.cluster["workerGroupSpecs"] if g["labels"]["rankfleet/pool"] == pool)
        assert budget["spec"]["minAvailable"] == pods - 1, "one pod may be evicted at a time"


def test_each_worker_group_has_room_for_its_replicas_and_each_pod_for_what_ray_reserves(built: Built) -> None:
    groups = built.cluster["workerGroupSpecs"]
    for deployment in built.deployments:
        actor, pool = (
            deployment["ray_actor_options"],
            deployment["ray_actor_options"]["label_selector"]["rankfleet/pool"],
        )
        of_pool = [group for group in groups if group["labels"]["rankfleet/pool"] == pool]
        assert of_pool, f"no worker group has the label of {deployment['name']}"
        for group in of_pool:
            assert actor["num_cpus"] <= int(group["resources"]["CPU"])
            assert actor.get("num_gpus", 0) <= int(group["resources"].get("GPU", 0))
        largest = built.fleet.updates.max_during_update(deployment["autoscaling_config"]["max_replicas"])
        if deployment.get("max_replicas_per_node") == 1:
            assert min(group["maxReplicas"] for group in of_pool) >= largest
    sharing = [d for d in built.deployments if d.get("max_replicas_per_node") != 1]
    gpus = sum(
        d["ray_actor_options"]["num_gpus"]
        * built.fleet.updates.max_during_update(d["autoscaling_config"]["max_replicas"])
        for d in sharing
    )
    assert gpus <= sum(g["maxReplicas"] for g in groups if g["groupName"] == "shared-gpu")
    for group in groups:
        amounts = group["template"]["spec"]["containers"][0]["resources"]
        cores = amounts["requests"]["cpu"]
        requested = int(cores[:-1]) / 1000 if cores.endswith("m") else float(cores)
        assert requested >= int(group["resources"]["CPU"]), "Ray may not promise more than Kubernetes has"
        assert amounts["limits"].get("nvidia.com/gpu") == group["resources"].get("GPU")
        assert amounts["limits"]["memory"] == amounts["requests"]["memory"]


def amounts_of(pod: dict[str, Any]) -> Counter[str]:
    """Cores, GiB and GPUs that a pod requests."""
    requests = pod["spec"]["containers"][0]["resources"]["requests"]
    cores, memory, gpus = requests["cpu"], requests["memory"], float(requests.get("nvidia.com/gpu", 0))
    return Counter(
        CPU=float(cores[:-1]) / 1000 if cores.endswith("m") else float(cores),
        GiB=float(memory[:-2]) / {"Gi": 1, "Mi": 1024}[memory[-2:]],
        GPU=gpus,
    )


def test_the_header_says_what_room_all_pods_of_the_node_pools_take(built: Built) -> None:
    groups = built.cluster["workerGroupSpecs"]
    workers, others = built.pods[1 : 1 + len(groups)], [built.pods[0], *built.pods[1 + len(groups) :]]
    autoscaler = Counter(CPU=0.5, GiB=0.5)  # which KubeRay puts into the head's pod
    least, most = Counter(autoscaler), Counter(autoscaler)
    largest: dict[str, int] = {}  # kinds of nodes of one pool share its largest number of pods
    for total in (least, most):
        for pod in others:
            total.update(amounts_of(pod))
    for group, pod in zip(groups, workers, strict=True):
        pool, each = group["labels"]["rankfleet/pool"], amounts_of(pod)
        least.update({name: amount * group["minReplicas"] for name, amount in each.items()})
        if pool not in largest:
            largest[pool] = group["maxReplicas"]
            most.update({name: amount * group["maxReplicas"] for name, amount in each.items()})
        assert group["maxReplicas"] == largest[pool]
    said = [f"{least[unit]:g} to {most[unit]:g} {unit}" for unit in ("CPU", "GiB", "GPU") if most[unit]]
    header = (built.folder / f"overlays/{built.overlay}/rayservice.yaml").read_text()
    assert f"#   total: {', '.join(said)}\n" in header


def test_the_operator_can_reach_the_dashboard_and_every_pod_can_reach_dns(built: Built) -> None:
    policies = {o["metadata"]["name"]: o["spec"] for o in built.kind("NetworkPolicy")}
    (operator,) = policies["rankfleet-head"]["ingress"]
    assert operator["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert 8265 in [port["port"] for port in operator["ports"]]
    dns = [rule for rule in policies["rankfleet"]["egress"] if {p["port"] for p in rule.get("ports", [])} == {53}]
    assert {port["protocol"] for rule in dns for port in rule["ports"]} == {"TCP", "UDP"}


def test_redis_is_deployed_where_the_head_relies_on_it(built: Built) -> None:
    options = built.cluster.get("gcsFaultToleranceOptions")
    redis = {o["kind"]: o for o in built.objects if o["metadata"]["name"].endswith("-redis")}
    assert (options is not None) == bool(redis)
    if options:
        (port,) = redis["Service"]["spec"]["ports"]
        assert options["redisAddress"] == f"{redis['Service']['metadata']['name']}:{port['port']}"
        (password,) = redis["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["env"]
        assert options["redisPassword"]["valueFrom"] == password["valueFrom"], "both read the same secret"


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for o in filter(None, objects):
        if o["kind"] == "RayService":
            o["spec"]["serveConfigV2"] = yaml.safe_load(o["spec"]["serveConfigV2"])
        found[o["kind"], o["metadata"]["name"]] = o
    return found


def test_the_chart_has_the_objects_of_the_overlay(built: Built) -> None:
    done = helm("template", "release", built.folder / "charts" / built.overlay)
    assert done.returncode == 0, done.stderr
    copies = list(yaml.safe_load_all(yaml.safe_dump_all(built.objects)))
    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(copies)


def test_helm_finds_no_fault_with_the_chart(built: Built) -> None:
    done = helm("lint", "--strict", built.folder / "charts" / built.overlay)
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_change_live_settings_images_and_nodes(built: Built) -> None:
    (group, *_) = (g["groupName"] for g in built.cluster["workerGroupSpecs"])
    chart = built.folder / "charts" / built.overlay
    sets = ("fleet.default_slo_class=null", "image=other:1", f"pools.{group}.node_selector.kind=cpu", "monitoring=true")
    done = helm("template", "release", chart, *(word for each in sets for word in ("--set", each)))
    assert done.returncode == 0, done.stderr
    objects = list(filter(None, yaml.safe_load_all(done.stdout)))
    changed = Built(objects, built.folder, built.overlay)
    assert changed.fleet.default_slo_class is None
    assert {
        pod["spec"]["containers"][0]["image"] for pod in changed.pods if "-redis" not in pod["metadata"]["name"]
    } == {"other:1"}
    assert changed.cluster["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"]["kind"] == "cpu"
    assert len(changed.kind("PodMonitor")) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fleet.routers=7", "fleet.routers decides on pods: change it in the fleet file and run rankfleet k8s render"),
        ("nodeSelector.a=b", "additional properties 'nodeSelector' not allowed"),
    ],
)
def test_values_that_pods_would_not_follow_are_refused(built: Built, value: str, message: str) -> None:
    done = helm("template", "release", built.folder / "charts" / built.overlay, "--set", value)
    assert done.returncode != 0
    assert message in done.stderr


# Rules of checkov that a fleet breaks on purpose.
EXCEPTIONS = {
    "CKV_K8S_8": "KubeRay adds the liveness probes of Ray's pods",
    "CKV_K8S_9": "KubeRay adds the readiness probes of Ray's pods",
    "CKV_K8S_11": "a CPU limit would throttle, and that shows as latency",
    "CKV_K8S_15": "tags are not moved, so that a pod need not ask the registry for what it has",
    "CKV_K8S_21": "kubectl and Helm choose the namespace",
    "CKV_K8S_35": "Redis and the hub's client read their secret from the environment",
    "CKV_K8S_38": "the autoscaler, in the head, uses the API server",
    "CKV_K8S_40": "the user is the image's, or the cluster's choice",
    "CKV_K8S_43": "the digest is known when the image is pushed; `image` may name it",
}


def test_checkov_finds_nothing_but_what_is_explained(built: Built, tmp_path: Path) -> None:
    checkov = tool("checkov")
    if checkov is None:
        pytest.skip("no checkov: run python -m tests.check.kubernetes_tools")
    own = [o for o in built.objects if o["kind"] != "RayService"]
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all([*own, *built.pods]))
    command = (checkov, "-d", tmp_path, "--framework", "kubernetes", "--output", "json", "--quiet", "--skip-download")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 80
    failed = {check["check_id"]: check["check_name"] for check in report["results"]["failed_checks"]}
    assert {identity: name for identity, name in failed.items() if identity not in EXCEPTIONS} == {}


def test_hadolint_finds_nothing_in_the_image_file() -> None:
    hadolint = tool("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint: run python -m tests.check.kubernetes_tools")
    done = subprocess.run([hadolint, "--no-color", ROOT / "k8s/Dockerfile"], capture_output=True, text=True)
    assert done.stdout == ""
