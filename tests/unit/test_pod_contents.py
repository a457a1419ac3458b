"""What a fleet file names is where pods look for it, or the fleet is refused."""

from pathlib import Path
from typing import Any

import pytest

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.k8s.cluster_file import ClusterFile, parse_cluster
from rankfleet.k8s.contents import Contents, contents
from rankfleet.k8s.memory import check_pod_memory
from rankfleet.k8s.render import render
from rankfleet.k8s.service import ray_service, sized_pools
from tests.unit.fakes import fleet

COMMIT = "9e4aa35321a6dd1a43ca313f500c4b4f7cfb5cc6"


def with_model(model: str, revision: str | None = None, **changes: Any) -> FleetConfig:
    tier = {"model": model, "revision": revision, "quality": 0.5}
    return fleet(tiers={"t": tier}, groups={"g": {"tiers": ["t"]}}, **changes)


def placed(config: FleetConfig, **cluster: Any) -> Contents:
    return contents(config, ClusterFile.model_validate(cluster))


def workers(config: FleetConfig, **cluster: Any) -> list[dict[str, Any]]:
    """Pod specs of the router and of the group."""
    settings = ClusterFile.model_validate(cluster)
    spec = ray_service(contents(config, settings), settings)["spec"]["rayClusterConfig"]
    return [group["template"]["spec"] for group in spec["workerGroupSpecs"]]


def environment(spec: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in spec["containers"][0]["env"]}


def refusal(config: FleetConfig, **cluster: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        placed(config, **cluster)
    return str(refused.value)


def test_models_that_ship_are_in_the_image_and_nothing_asks_a_hub() -> None:
    assert not placed(fleet()).asks_hub
    for spec in workers(fleet()):
        assert environment(spec)["HF_HUB_OFFLINE"] == "1"
    assert "hub.yaml" not in render(fleet(), ClusterFile(), "").overlay


@pytest.mark.parametrize("revision", [None, "main", "9e4aa35"])
def test_a_model_of_the_hub_is_fetched_at_a_commit_only(revision: str | None) -> None:
    assert refusal(with_model("org/model", revision)).startswith("tiers.t.revision: give the commit of org/model")


def test_every_worker_gets_the_token_of_the_hub_and_its_address_by_reference() -> None:
    config = with_model("org/model", COMMIT)
    for spec in workers(config, hub={"secret": "hub"}):
        found = environment(spec)
        assert found["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
        assert found["HF_ENDPOINT"] == {"secretKeyRef": {"name": "hub", "key": "HF_ENDPOINT", "optional": True}}
        assert "HF_HUB_OFFLINE" not in found
    assert "port: 443" in render(config, ClusterFile(), "").overlay["hub.yaml"]
    mirror = parse_cluster({"hub": {"port": 8443}})
    assert "port: 8443" in render(config, mirror, "").overlay["hub.yaml"]


def test_a_proxy_is_for_the_hub_alone() -> None:
    config, proxy = (
        with_model("org/model", COMMIT),
        {"url": "http://proxy.example.org:3128", "no_proxy": ["10.0.0.0/8"]},
    )
    for spec in workers(config, proxy=proxy):
        found = environment(spec)
        assert found["HTTPS_PROXY"] == "http://proxy.example.org:3128"
        assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,.svc,.cluster.local,10.0.0.0/8"
        assert found["grpc_proxy"] == ""
        assert not {"http_proxy", "https_proxy", "HTTP_PROXY"} & set(found), "gRPC and wget would heed these"
    assert "port: 3128" in render(config, parse_cluster({"proxy": proxy}), "").overlay["hub.yaml"]


def test_models_of_the_hub_may_be_in_the_image_or_a_volume() -> None:
    config = with_model("org/model")  # a cache has one commit of a model, or the fleet file says which
    for place in ({"in_image": ["/opt/models"]}, {"volumes": [{"path": "/opt/models", "claim": "models"}]}):
        for spec in workers(config, hub={"home": "/opt/models/hub"}, **place):
            found = environment(spec)
            assert (found["HF_HOME"], found["HF_HUB_OFFLINE"]) == ("/opt/models/hub", "1")
    assert refusal(config, hub={"home": "/opt/models/hub"}).startswith("hub.home: /opt/models/hub is in no pod")


def test_a_folder_that_no_pod_has_is_refused() -> None:
    assert refusal(with_model("/models/mine")).startswith("tiers.t.model: /models/mine is in no pod")
    assert refusal(with_model("/models-2/mine"), in_image=["/models"]).startswith("tiers.t.model: /models-2/mine")
    assert refusal(fleet(search={"index": "/data/index"})).startswith("search.index: /data/index is in no pod")
    config = with_model("/models/mine", search={"index": "/data/index"})
    volumes = [{"path": "/models/", "claim": "models"}, {"path": "/data", "claim": "data", "read_only": False}]
    for spec in workers(config, volumes=volumes):
        claims = [volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
        assert claims == [{"claimName": "models", "readOnly": True}, {"claimName": "data", "readOnly": False}]
        mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in spec["containers"][0]["volumeMounts"]}
        assert (mounts["/models"], mounts["/data"]) == (True, False)


def test_a_folder_of_this_computer_is_no_folder_of_a_pod(tmp_path: Path) -> None:
    assert "is in no pod" in refusal(with_model(str(tmp_path)))


def test_a_profile_and_a_quality_table_become_a_config_map(tmp_path: Path) -> None:
    profile, table = tmp_path / "here.json", tmp_path / "table.json"
    profile.write_text('{"profile": 1}')
    table.write_text('{"table": 1}')
    config = fleet(profile=str(profile), quality={"table": str(table)})
    found = placed(config)
    assert found.files == {"quality.json": '{"table": 1}', "profile.json": '{"profile": 1}'}
    assert found.fleet.profile == "/etc/rankfleet/files/profile.json"
    assert found.fleet.quality.table == "/etc/rankfleet/files/quality.json"
    for spec in workers(config):
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "files")
        assert volume["configMap"] == {"name": found.config_map_of("rankfleet")}
    before = found.config_map_of("rankfleet")
    table.write_text('{"table": 2}')
    assert placed(config).config_map_of("rankfleet") != before, "pods that run keep the texts they have read"
    inside = placed(config, in_image=[str(tmp_path)])
    assert (inside.files, inside.fleet.profile) == ({}, str(profile))


def test_files_that_a_config_map_cannot_hold_are_refused(tmp_path: Path) -> None:
    missing = refusal(fleet(profile="/nowhere/profile.json"))
    assert missing.startswith("profile: /nowhere/profile.json cannot be read here")
    (tmp_path / "large.json").write_text("1" * 1_000_001)
    assert "more than 1000000 bytes" in refusal(fleet(profile=str(tmp_path / "large.json")))


@pytest.mark.parametrize("section", ["decision_log", "events"])
def test_what_routers_write_goes_where_pods_can_write(section: str) -> None:
    def writing_to(folder: str) -> FleetConfig:
        return fleet(**{section: {"folder": folder}})

    assert refusal(writing_to("/home/me/log")).startswith(f"{section}.folder: pods cannot write")
    placed(writing_to("/var/cache/rankfleet/log"))
    volume = {"path": "/log", "claim": "log"}
    assert "cannot write" in refusal(writing_to("/log"), volumes=[volume])
    placed(writing_to("/log"), volumes=[volume | {"read_only": False}])


def test_events_may_go_to_a_url() -> None:
    placed(fleet(events={"folder": "s3://bucket/events"}))


def test_pods_run_as_the_image_says_or_as_asked() -> None:
    def ids(user_id: int | str | None) -> set[Any]:
        names = ("runAsUser", "runAsGroup", "fsGroup")
        return {spec["securityContext"].get(name) for spec in workers(fleet(), user_id=user_id) for name in names}

    assert (ids(None), ids("cluster"), ids(4711)) == ({None}, {None}, {4711})


def test_redis_runs_as_its_own_user_unless_the_cluster_assigns_one() -> None:
    def redis(user_id: int | str | None) -> str:
        return render(fleet(), parse_cluster({"redis": True, "user_id": user_id}), "").overlay["redis.yaml"]

    assert "runAsUser: 999\n" in redis(None)
    assert "runAsUser: 4711\n" in redis(4711)
    assert "runAsUser" not in redis("cluster")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"availability": True, "redis": True}, "set `routers: 2`"),
        ({"pools": {"gpu": {}}}, "pools: gpu is none of this fleet's worker groups: router, demo"),
    ],
)
def test_pods_that_could_not_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workers(fleet(), **settings)


def test_availability_needs_redis() -> None:
    with pytest.raises(ConfigError, match="set `redis: true`"):
        workers(fleet(routers=2), availability=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imag": "x"}, "cluster file: imag: unknown key"),
        ({"proxy": {"url": "proxy:3128"}}, "proxy.url: 'proxy:3128' is not a URL such as http://HOST:PORT"),
        ({"volumes": [{"path": "models", "claim": "c"}]}, "volumes.0.path: 'models' is not the absolute path"),
        ([], "expected a mapping, found list"),
    ],
)
def test_mistakes_in_a_cluster_file_are_named(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_cluster(settings)
    assert message in str(refused.value)


def test_a_pod_without_memory_for_its_tiers_is_refused() -> None:
    """Each copy of the large demo tier has 15 million weights, of 4 bytes in float32."""
    tiers = [f"t{i}" for i in range(50)]
    config = fleet(
        tiers={tier: {"model": "demo/large", "quality": 0.5} for tier in tiers},
        groups={"g": {"tiers": tiers, "dtype": "float32"}},
    )

    def check(memory_gib: int) -> None:
        cluster = parse_cluster({"pools": {"g": {"memory_gib": memory_gib}}})
        check_pod_memory(config, sized_pools(config, cluster))

    check(4)
    with pytest.raises(
        ConfigError, match=r"pods of g have 1 GiB, and their tiers need at least 3\.2\d GB; set .pools\.g\."
    ):
        check(1)
