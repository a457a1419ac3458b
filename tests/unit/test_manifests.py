"""A fleet file as a RayService: options of deployments, worker groups, pods, and the header."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rankfleet.cli.k8s import k8s_app
from rankfleet.cluster.environment import LOW_LATENCY
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.fleet_file import read_config
from rankfleet.core.sections import Group, Updates
from rankfleet.k8s import service
from rankfleet.k8s.cluster_file import ClusterFile, parse_cluster
from rankfleet.k8s.contents import contents
from rankfleet.k8s.pods import ENVIRONMENT
from rankfleet.k8s.pools import Pool, bins, pools, shared_pool
from rankfleet.k8s.render import header
from tests.unit.fakes import fleet

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def group(**settings: Any) -> Group:
    return Group.model_validate({"tiers": ["small"]} | settings)


def one_group(name: str = "demo", **settings: Any) -> FleetConfig:
    return fleet(groups={name: {"tiers": ["small", "medium", "large"]} | settings})


def ray_service(config: FleetConfig, **cluster: Any) -> dict[str, Any]:
    settings = ClusterFile.model_validate(cluster)
    return service.ray_service(contents(config, settings), settings)


def header_of(config: FleetConfig, **cluster: Any) -> str:
    settings = ClusterFile.model_validate(cluster)
    return header(service.sized_pools(config, settings), settings, "the command")


def application(config: FleetConfig) -> dict[str, Any]:
    return yaml.safe_load(ray_service(config)["spec"]["serveConfigV2"])["applications"][0]


def cluster(config: FleetConfig) -> dict[str, Any]:
    return ray_service(config)["spec"]["rayClusterConfig"]


def templates(config: FleetConfig) -> list[dict[str, Any]]:
    spec = cluster(config)
    return [spec["headGroupSpec"]["template"]] + [workers["template"] for workers in spec["workerGroupSpecs"]]


# The commands that wrote the stored manifests.
STORED = (
    "render --config configs/demo.yaml --out k8s --helm",
    "render --config configs/gpu.yaml --out k8s --overlay single-gpu",
    "render --config configs/fleet.yaml --cluster configs/clusters/fleet.yaml --out k8s",
    "render --config configs/production.yaml --cluster configs/clusters/production.yaml --out k8s",
)


def test_stored_manifests_are_what_the_commands_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configs", "serve"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for command in STORED:
        assert CliRunner().invoke(k8s_app, command.split()).exit_code == 0
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("k8s/**/*") if path.is_file()}
    stored = [path for folder in ("base", "overlays", "charts") for path in (ROOT / "k8s" / folder).rglob("*")]
    assert {path.relative_to(ROOT): path.read_text() for path in stored if path.is_file()} == written, (
        "run: " + STORED[0]
    )


def test_pages_say_what_stored_overlays_take() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    for overlay in (ROOT / "k8s/overlays").iterdir():
        taken = re.search("^#   total: (.+)$", (overlay / "rayservice.yaml").read_text(), re.MULTILINE)
        assert taken is not None
        assert taken[1] in page, f"the table of overlays: {overlay.name}"


def test_a_rendered_file_names_the_command_that_renders_it(tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    arguments = ["render", "--config", "demo", "--name", "mine", "--image", "there/rankfleet:7", "--out", str(out)]
    assert CliRunner().invoke(k8s_app, arguments).exit_code == 0
    text = (out / "overlays/demo/rayservice.yaml").read_text()
    assert text.splitlines()[1] == (
        f"#   rankfleet k8s render --config demo --name mine --image there/rankfleet:7 --out '{out}'"
    )
    rendered = yaml.safe_load(text)
    assert rendered["metadata"]["name"] == "mine"
    head = rendered["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    assert head["spec"]["containers"][0]["image"] == "there/rankfleet:7"


def test_options_of_the_demo_deployments() -> None:
    config = read_config(ROOT / "configs/demo.yaml")
    router, demo = application(config)["deployments"]
    assert router["name"] == "router"
    assert router["autoscaling_config"]["min_replicas"] == router["autoscaling_config"]["max_replicas"] == 1
    assert router["ray_actor_options"] == {"num_cpus": 0.5, "label_selector": {"rankfleet/pool": "router"}}
    assert router["graceful_shutdown_timeout_s"] == 60.0, "30 s in which Serve keeps it reachable, and its own 30 s"
    assert demo == {
        "name": "demo",
        "max_ongoing_requests": 4000,
        "max_replicas_per_node": 1,
        "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 0.0, "label_selector": {"rankfleet/pool": "demo"}},
        "user_config": config.for_groups,
        "request_router_config": {
            "request_router_class": "rankfleet.cluster.request_router:LeastWorkRouter",
            "request_routing_stats_period_s": 0.5,
        },
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": 2,
            "look_back_period_s": 2.0,
            "metrics_interval_s": 0.25,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 0.0,
        },
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 15.0,
        "max_surge_percent": 25,
        "graceful_shutdown_timeout_s": 30.0,
        "graceful_shutdown_wait_loop_s": 0.5,
    }


def test_which_options_a_change_of_the_fleet_file_touches() -> None:
    def parts(**changes: object) -> tuple[object, dict[str, dict[str, object]]]:
        config = application(fleet(**changes))
        return config["args"], {d["name"]: d for d in config["deployments"]}

    def demo(**changes: object) -> dict[str, object]:
        return {"groups": {"demo": {"tiers": ["small", "medium", "large"]} | changes}}

    args, before = parts()
    for changes, touched in (
        (demo(replicas={"min": 2, "max": 4}), {"router": {"user_config"}, "demo": {"autoscaling_config"}}),
        (demo(cpus=2), {"router": {"user_config"}, "demo": {"ray_actor_options"}}),
        ({"routers": 2}, {"router": {"user_config", "autoscaling_config"}, "demo": set()}),
        ({"autoscaling": {"margin": 0.2}}, {"router": {"user_config"}, "demo": set()}),
        (
            {"updates": {"surge_percent": 0}},
            {"router": {"user_config", "max_surge_percent"}, "demo": {"max_surge_percent"}},
        ),
        (demo(threads=2), {key: {"user_config"} for key in ("router", "demo")}),
    ):
        same_args, after = parts(**changes)
        assert same_args == args
        assert {n: {k for k in d if d[k] != before[n][k]} for n, d in after.items()} == touched
    two = {"a": {"tiers": ["small"]}, "b": {"tiers": ["medium", "large"]}}
    assert parts(groups=two)[0] != args, "only another set of groups rolls what is there"


def test_the_autoscaling_policy_is_the_same_whatever_the_fleet() -> None:
    policies = [application(one_group(**some))["autoscaling_policy"] for some in ({}, {"gpus": 0.5, "cpus": 3.0})]
    expected = {
        "policy_function": "rankfleet.cluster.autoscaling_policy:FleetPolicy",
        "policy_kwargs": {"router": "router"},
    }
    assert policies == [expected, expected]


def test_every_node_has_a_proxy_that_listens_on_all_addresses() -> None:
    whole = yaml.safe_load(ray_service(fleet())["spec"]["serveConfigV2"])
    assert whole["proxy_location"] == "EveryNode"
    assert whole["http_options"] == {"host": "0.0.0.0", "port": 8000}
    assert whole["logging_config"] == {"enable_access_log": False}


def test_live_settings_change_the_routers_user_config_and_nothing_else() -> None:
    before = ray_service(fleet())
    after = ray_service(
        fleet(
            default_model="large",
            slo_classes={"fast": {"slo_ms": 40}},
            experiments={"size": {"arms": {"a": {"model": "small", "weight": 1}}}},
            autoscaling={"utilisation": 0.5, "max_gpus": 3},
        )
    )
    texts = before["spec"].pop("serveConfigV2"), after["spec"].pop("serveConfigV2")
    assert before == after
    one, other = (yaml.safe_load(text)["applications"][0]["deployments"][0].pop("user_config") for text in texts)
    assert one["default_model"] == "auto"
    assert other["default_model"] == "large"
    assert other["slo_classes"] == {"fast": {"slo_ms": 40.0, "when_none_fits": "degrade"}}
    assert other["experiments"]["size"]["arms"]["a"]["model"] == "small"
    rest = [yaml.safe_load(text) for text in texts]
    for config in rest:
        del config["applications"][0]["deployments"][0]["user_config"]
    assert rest[0] == rest[1]


def test_worker_groups_of_a_fleet_with_shared_gpus() -> None:
    assert pools(read_config(ROOT / "configs/fleet.yaml")) == [
        # An update may start a quarter more, and at least one.
        Pool("router", min_pods=2, max_pods=3, cpus=1, cores=1.5, memory_gib=3),
        Pool("t400m", min_pods=1, max_pods=5, cpus=1, cores=1.5, memory_gib=16, gpus=1),
        Pool("t1b", min_pods=1, max_pods=5, cpus=1, cores=1.5, memory_gib=16, gpus=1),
        # At least ¼ + ¼ + ½ + ½ GPU; at most 3·¼ + 3·¼ + 5·½ + 5·½ = 6½ GPUs, and one to spare.
        Pool("shared-gpu", min_pods=2, max_pods=8, cpus=4, cores=4.5, memory_gib=16, gpus=1),
    ]


def test_a_group_with_whole_gpus_has_a_worker_group_of_its_own() -> None:
    config = one_group("Big.Tiers", replicas={"min": 0, "max": 3}, gpus=2, cpus=2.5, resources={"nvme": 0.5})
    assert pools(config)[1] == Pool(
        "big-tiers", min_pods=0, max_pods=4, cpus=3, cores=3.0, memory_gib=16, gpus=2, resources={"nvme": 1}
    )


def test_a_pod_on_cpus_has_a_core_for_each_thread() -> None:
    assert pools(one_group(cpus=1, threads=4))[1].cores == 4.5


def test_a_pod_of_the_router_has_room_for_the_groups_that_it_hosts() -> None:
    (router,) = pools(one_group(in_router=True, cpus=1, threads=4))
    assert router == Pool("router", min_pods=1, max_pods=2, cpus=2, cores=5.0, memory_gib=7)


def test_a_pod_with_a_shared_gpu_fits_any_mix_of_replicas() -> None:
    # Two of the first and one of the second reserve 2.1 cores, 2.5 = 1 ÷ 0.4 is the bound.
    pool = shared_pool([group(gpus=0.4, cpus=1, resources={"x": 1}), group(gpus=0.2, cpus=0.1)], Updates())
    assert (pool.cpus, pool.gpus, pool.resources) == (3, 1, {"x": 3})


def test_equal_fractions_of_gpus_need_no_spare_pod() -> None:
    four = [group(gpus=0.5, replicas={"min": 0, "max": 4})]
    pools_of = [shared_pool(four, Updates(surge_percent=percent)) for percent in (0, 25, 100)]
    assert [(pool.min_pods, pool.max_pods) for pool in pools_of] == [(0, 2), (0, 3), (0, 4)]


@pytest.mark.parametrize(
    ("sizes", "count"),
    [([], 0), ([1], 1), ([0.5, 0.5], 1), ([0.1] * 10, 1), ([0.6, 0.6], 2), ([0.5, 0.7, 0.5, 0.2, 0.1], 2)],
)
def test_first_fit_from_the_largest_to_the_smallest(sizes: list[float], count: int) -> None:
    assert bins(sizes) == count


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_replica_fits_into_a_pod_of_its_worker_group(path: Path) -> None:
    config = read_config(path)
    groups = {workers["labels"]["rankfleet/pool"]: workers for workers in cluster(config)["workerGroupSpecs"]}
    for deployment in application(config)["deployments"]:
        actor = deployment["ray_actor_options"]
        offered = groups[actor["label_selector"]["rankfleet/pool"]]["resources"]
        assert actor["num_cpus"] <= int(offered["CPU"])
        assert actor.get("num_gpus", 0) <= int(offered.get("GPU", 0))


def test_gpu_pods_request_the_resources_that_ray_reserves() -> None:
    workers = cluster(one_group(gpus=2, cpus=3))["workerGroupSpecs"][1]
    assert workers["resources"] == {"CPU": "3", "GPU": "2"}
    spec = workers["template"]["spec"]
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "3500m", "memory": "16Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"},
    }
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_the_head_runs_no_replicas_and_gets_no_traffic() -> None:
    assert cluster(fleet())["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert ray_service(fleet())["spec"]["excludeHeadPodFromServeSvc"] is True


def test_every_pod_has_the_environment_and_keeps_to_restricted_pod_security() -> None:
    for template in templates(fleet()):
        spec = template["spec"]
        (container,) = spec["containers"]
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment.items() >= LOW_LATENCY.items()
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert environment["HOME"] == "/var/cache/rankfleet"
        for folder in ("/tmp", "/var/cache/rankfleet"):
            assert "readOnly" not in mounts[folder]
    workers = [group["template"]["spec"] for group in cluster(fleet())["workerGroupSpecs"]]
    assert [spec["automountServiceAccountToken"] for spec in workers] == [False, False]


def test_a_pod_that_ends_lets_serve_move_its_replicas_and_has_the_time_for_it() -> None:
    config = fleet(updates={"graceful_shutdown_timeout_s": 90}, autoscaling={"start_s": 40.5})
    spec = cluster(config)["workerGroupSpecs"][1]["template"]["spec"]
    (shell, option, script) = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, option) == ("/bin/sh", "-c")
    # 40.5 s for a new replica to start, 90 s for the old one to finish.
    assert "ray drain-node" in script
    assert "--deadline-remaining-seconds 131" in script
    assert spec["terminationGracePeriodSeconds"] == 131 + 35 + 10
    assert ray_service(config)["spec"]["rayClusterDeletionDelaySeconds"] == 90 + 35


def test_a_change_of_the_number_of_pods_is_one_that_kuberay_sees() -> None:
    """KubeRay leaves `maxReplicas` out when it compares, and keeps that of a cluster that runs."""

    def compared(replicas: int, **settings: Any) -> list[dict[str, Any]]:
        config = one_group(replicas={"min": 1, "max": replicas})
        groups = ray_service(config, **settings)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        return [{k: v for k, v in g.items() if k not in ("replicas", "minReplicas", "maxReplicas")} for g in groups]

    two, eight = compared(2), compared(8)
    assert two[1]["template"]["metadata"]["annotations"] == {"rankfleet/max-pods": "3"}
    assert eight[1]["template"]["metadata"]["annotations"] == {"rankfleet/max-pods": "10"}
    assert two[0] == eight[0]
    roomy = {"pools": {"demo": {"max_pods": 10}}}
    assert compared(2, **roomy) == compared(8, **roomy), "with room for more, nothing starts anew"
    with pytest.raises(ConfigError, match=r"pools\.demo\.max_pods is 10, but .* need 12 pods"):
        compared(9, **roomy)


def test_a_group_that_may_sleep_has_a_pod_for_the_replica_that_it_starts_with() -> None:
    config = one_group(replicas={"min": 0, "max": 2})
    demo = cluster(config)["workerGroupSpecs"][1]
    assert (demo["minReplicas"], demo["replicas"], demo["maxReplicas"]) == (0, 1, 3)
    assert application(config)["deployments"][1]["autoscaling_config"]["initial_replicas"] == 1


def test_kinds_of_nodes_are_worker_groups_in_order_of_preference() -> None:
    kinds = [
        {"name": "spot", "node_selector": {"nodes": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]},
        {"name": "fixed", "node_selector": {"nodes": "fixed"}},
    ]
    config = one_group(gpus=1, replicas={"min": 2, "max": 4})
    settings = {"pools": {"demo": {"nodes": kinds, "node_selector": {"gpu": "l4"}}}}
    _, spot, fixed = ray_service(config, **settings)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [group["groupName"] for group in (spot, fixed)] == ["demo-spot", "demo-fixed"]
    assert [group["priority"] for group in (spot, fixed)] == [2, 1]
    assert [(group["minReplicas"], group["maxReplicas"]) for group in (spot, fixed)] == [(0, 5), (2, 5)]
    assert [group["replicas"] for group in (spot, fixed)] == [0, 2]
    assert spot["labels"] == fixed["labels"] == {"rankfleet/pool": "demo"}
    assert spot["template"]["spec"]["nodeSelector"] == {"gpu": "l4", "nodes": "spot"}
    assert [toleration["key"] for toleration in spot["template"]["spec"]["tolerations"]] == ["nvidia.com/gpu", "spot"]


def test_the_image_has_what_pods_rely_on() -> None:
    lines = (ROOT / "k8s/Dockerfile").read_text()
    assert [line.split()[-1] for line in lines.splitlines() if line.startswith("FROM")] == ["build", "cpu", "cuda"]
    assert lines.rstrip().endswith("USER 1000"), "by number: Kubernetes checks that it is not root"
    assert f"HOME={ENVIRONMENT['HOME']} USER={ENVIRONMENT['USER']} " in lines
    cpu = lines.partition(" AS cpu")[2]
    assert "wget" in cpu, "of probes and preStop"
    assert "mkdir --mode 1777 /var/cache/rankfleet" in cpu, "of any user"


def test_the_ray_version_is_the_one_pinned_for_the_image() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster(fleet())["rayVersion"] == pinned[1]


def test_the_header_lists_the_pods_their_total_and_the_secrets() -> None:
    text = header_of(one_group(gpus=2, replicas={"min": 1, "max": 3}), name="mine", redis=True, hub={"secret": "hf"})
    assert "#   the command\n" in text
    assert "#   router: 1 to 2 pods of 1 CPU, 3 GiB\n" in text
    assert "#   demo: 1 to 4 pods of 1.5 CPU, 16 GiB, 2 GPU\n" in text
    assert "#   redis: 1 pod of 0.25 CPU, 0.5 GiB\n" in text
    # Head 2.5 cores and 4.5 GiB with the autoscaler, Redis, routers 1 and 3 each, replicas 1.5 and 16 each.
    assert "#   total: 5.25 to 10.75 CPU, 24 to 75 GiB, 2 to 8 GPU\n" in text
    assert "#   mine-keys with the API keys" in text
    assert "#   mine-redis with `password`\n#   hf with HF_TOKEN\n" in text


@pytest.mark.parametrize("name", ["", "Fleet", "1fleet", "a_b", "fleet-", "f" * 48])
def test_names_that_kubernetes_does_not_allow_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: .*lower-case letters"):
        parse_cluster({"name": name})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (one_group(gpus=1.5), r"groups\.demo\.gpus is 1\.5"),
        (one_group("Router"), "would be named router"),
        (
            fleet(groups={"a.b": {"tiers": ["small"]}, "a-b": {"tiers": ["medium", "large"]}}),
            "would be named a-b; rename one",
        ),
    ],
)
def test_fleets_that_fit_into_no_pods_are_refused(config: FleetConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ray_service(config)


def test_routers_read_api_keys_from_a_secret_that_no_manifest_holds() -> None:
    spec = ray_service(fleet(keys="/home/me/keys"), name="mine")["spec"]
    router, demo = (workers["template"]["spec"] for workers in spec["rayClusterConfig"]["workerGroupSpecs"])
    (volume,) = (volume for volume in router["volumes"] if "secret" in volume)
    assert volume == {"name": "keys", "secret": {"secretName": "mine-keys"}}
    (mount,) = (mount for mount in router["containers"][0]["volumeMounts"] if mount["name"] == "keys")
    (deployed, _) = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["deployments"]
    assert deployed["user_config"]["keys"] == f"{mount['mountPath']}/keys"
    assert "keys" not in {volume["name"] for volume in demo["volumes"]}


def test_a_fleet_without_keys_is_rendered_only_where_that_is_said() -> None:
    rendered = CliRunner().invoke(k8s_app, ["render", "--allow-anyone"]).stdout
    assert "#   rankfleet k8s render --config demo --allow-anyone\n" in rendered
    assert "anyone who reaches port 8000" in rendered
    (found,) = (o for o in yaml.safe_load_all(rendered) if o["kind"] == "RayService")
    router, _ = yaml.safe_load(found["spec"]["serveConfigV2"])["applications"][0]["deployments"]
    assert router["user_config"]["keys"] is None
    assert "rankfleet-keys" not in rendered
