"""Checks before a fleet is started or updated on this computer, and what is said of one that fails."""

import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rankfleet.bench.traffic import session
from rankfleet.cluster import deploy, environment, launch, preflight
from rankfleet.cluster.environment import (
    haproxy_files,
    prepare_environment,
    ray_temp_dir,
    remove_proxies,
    token_location,
    token_path,
    user_folder,
)
from rankfleet.cluster.failures import (
    OF_FILE,
    LaunchError,
    as_launch_error,
    explain_failure,
    lost_and_failing,
    root_cause,
    start_failures,
)
from rankfleet.cluster.preflight import check_fits, reserved_resources, room_to_surge
from rankfleet.cluster.running_fleets import (
    RunningFleet,
    one_at_a_time,
    pick_fleet,
    register_fleet,
    running_fleets,
)
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.fingerprint import settings_name
from tests.unit.fakes import fleet

TIERS = {"tiers": ["small", "medium", "large"]}


def test_the_replicas_that_start_must_fit_the_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "usable_cpus", lambda: 4)
    config = fleet(groups={"demo": TIERS | {"cpus": 1.5, "replicas": {"min": 2, "max": 9}}}, routers=2)
    assert reserved_resources(config) == {"CPU cores": 2 * 0.5 + 2 * 1.5, "GPUs": 0.0}
    check_fits(config)
    with pytest.raises(LaunchError, match=r"reserves 5\.5 CPU cores but the computer has 4"):
        check_fits(config.model_copy(update={"routers": 5}))


def test_a_group_in_the_router_reserves_its_cores_once_for_each_router() -> None:
    groups = {"fast": {"tiers": ["small"], "in_router": True, "cpus": 1.5}, "slow": {"tiers": ["medium", "large"]}}
    assert reserved_resources(fleet(groups=groups, routers=2)) == {"CPU cores": 2 * (0.5 + 1.5) + 1.0, "GPUs": 0.0}


@pytest.mark.parametrize(("cores", "room"), [(2, True), (1, False)])
def test_surging_needs_room_for_new_replicas_beside_the_old_ones(
    cores: int, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "usable_cpus", lambda: cores)
    # One router and one replica of half a core each, and each of them twice during an update.
    assert room_to_surge(fleet(groups={"demo": TIERS | {"cpus": 0.5}})) is room


@pytest.fixture
def temp(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A temporary folder with a short path, as sockets need one, and with nothing in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rf") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(environment, "MAX_FOLDER_BYTES", 60)
        yield Path(folder)


def test_proxy_variables_are_removed_and_no_others() -> None:
    given = {"http_proxy": "a", "HTTPS_PROXY": "b", "all_proxy": "c", "GRPC_PROXY": "d", "no_proxy": "e", "HOME": "/f"}
    remove_proxies(given)
    assert given == {"no_proxy": "e", "HOME": "/f"}


async def test_a_bench_uses_no_proxy() -> None:
    async with session("http://127.0.0.1:9") as client:
        assert client.trust_env is False


def test_the_environment_that_a_fleet_inherits(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"HOME": "/dev/null", "http_proxy": "http://127.0.0.1:9", "TMPDIR": str(temp)}
    monkeypatch.setattr(os, "environ", given)
    prepare_environment()
    assert "http_proxy" not in given
    assert given["HF_HUB_OFFLINE"] == "1"  # no proxy, no network: what was fetched is in the cache
    assert given["RAY_AUTH_TOKEN_PATH"].startswith(str(temp))
    assert given["RAY_SERVE_HAPROXY_SOCKET_PATH"].startswith(str(temp))


def test_only_the_user_can_write_to_the_users_folder(temp: Path) -> None:
    folder = user_folder()
    assert folder.parent == temp
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert user_folder() == folder


def test_a_folder_that_others_can_write_to_is_not_used(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "is_own", lambda folder: False)
    with pytest.raises(LaunchError, match=r"belong to another user; set TMPDIR to a folder of yours"):
        user_folder()
    monkeypatch.undo()
    for mode in (0o777, 0o720, 0o702):
        (temp / "open").mkdir(exist_ok=True)
        (temp / "open").chmod(mode)
        assert not environment.is_own(temp / "open")
    (temp / "link").symlink_to(temp)
    assert not environment.is_own(temp / "link")
    assert not environment.is_own(Path("/dev/null/x"))


def test_haproxys_files_are_in_the_users_folder(temp: Path) -> None:
    files = haproxy_files({"RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "/mine"})
    assert "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC" not in files
    assert {Path(file).parent for file in files.values() if Path(file).suffix} == {user_folder()}
    assert not any("/tmp/haproxy-serve" in file for file in files.values())


def test_a_token_is_stored_where_it_can_be_written(temp: Path) -> None:
    home = temp / "home"
    assert token_location({"HOME": str(home)}) == {}  # Ray makes its own there
    assert token_path({"HOME": str(home)}) == f"{home}/.ray/auth_token"
    assert token_location({"HOME": "/dev/null", "RAY_AUTH_TOKEN": "t"}) == {}
    assert token_path({"HOME": "/dev/null", "RAY_AUTH_TOKEN": "t"}) is None
    for useless in ({"HOME": "/dev/null"}, {"HOME": "/proc"}, {}):
        place = token_location(useless)
        path = Path(place["RAY_AUTH_TOKEN_PATH"])
        assert len(path.read_text()) == 64
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert token_location(useless) == place
        assert token_path(useless | place) == str(path)


def test_rays_default_folder_is_used_if_it_can_be(temp: Path) -> None:
    assert ray_temp_dir({"TMPDIR": str(temp)}) == {}
    for useless in (Path("/dev/null"), temp / ("long" * 9)):
        assert ray_temp_dir({"TMPDIR": str(useless)}) == {"RAY_TMPDIR": str(user_folder())}
        with pytest.raises(LaunchError, match=r"^RAY_TMPDIR \(/.*; set it to another folder, or unset it"):
            ray_temp_dir({"RAY_TMPDIR": str(useless)})


def test_two_commands_do_not_change_the_same_at_once(temp: Path) -> None:
    said, waits, order = list[str](), threading.Event(), list[str]()

    def progress(text: str) -> None:
        said.append(text)
        waits.set()

    def second() -> None:
        with one_at_a_time("updating-8000", "another update", progress):
            order.append("second")

    other = threading.Thread(target=second)
    with one_at_a_time("updating-8000", "another update", progress):
        other.start()
        assert waits.wait(60)
        with one_at_a_time("updating-8001", "an update of another fleet", progress):
            order.append("first")
    other.join(60)
    assert (said, order) == (["waiting for another update"], ["first", "second"])


def test_running_fleets_are_found_and_picked_by_port(temp: Path) -> None:
    assert running_fleets() == []
    with pytest.raises(LaunchError, match="no fleet of yours runs on this computer; start one"):
        pick_fleet([], None)
    one = RunningFleet("http://127.0.0.1:8000", 8000, "http://127.0.0.1:9000/metrics", "10.0.0.1:1", "/t")
    other = RunningFleet("http://127.0.0.1:8001", 8001, "http://127.0.0.1:9001/metrics", "10.0.0.1:2", None)
    register_fleet(one)
    (user_folder() / "fleets" / "999999999").write_text("{}")  # its process was killed
    assert running_fleets() == [one]
    assert not (user_folder() / "fleets" / "999999999").exists()
    assert pick_fleet([one], None) == one
    assert pick_fleet([one, other], 8001) == other
    with pytest.raises(LaunchError, match=r"2 fleets of yours .* which one to change: --port 8000 or --port 8001"):
        pick_fleet([one, other], None)
    with pytest.raises(LaunchError, match="no fleet of yours runs on this computer at port 8002"):
        pick_fleet([one, other], 8002)


def test_a_port_in_use_is_refused_before_anything_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LaunchError, match=r"is in use .* choose another with --port"):
            launch.start(fleet(), "127.0.0.1", taken.getsockname()[1], lambda text: None)


# As Serve 2.60 reports it, shortened.
OURS = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
\x1b[36mray::ServeReplica:rankfleet:demo.initialize_and_get_metadata()\x1b[39m (pid=1, ip=192.0.2.2)
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "checkpoint.py", line 69, in read_tensors
    raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
rankfleet.core.errors.CheckpointError: /m is not a readable safetensors file: invalid header length

The above exception was the direct cause of the following exception:

\x1b[36mray::ServeReplica:rankfleet:demo.initialize_and_get_metadata()\x1b[39m (pid=1, ip=192.0.2.2)
  File "group.py", line 63, in __init__
    raise CheckpointError(f"tier {tier}: {error}") from error
rankfleet.core.errors.CheckpointError: tier small: /m is not a readable safetensors file: invalid header length
  and what to do about it"""
OTHER = """A replica failed to start with exception. Retrying 2 more time(s). Error:
\x1b[36mray::ServeReplica:rankfleet:router.initialize_and_get_metadata()\x1b[39m (pid=1, ip=192.0.2.2)
RuntimeError: Traceback (most recent call last):
  File "replica.py", line 4010, in _call_func_or_gen
TypeError: Router.__init__() got multiple values for argument 'config'"""
KILLED = """The deployment failed to start 3 times in a row. Error:
The actor died unexpectedly before finishing this task.
\tclass_name: ServeReplica:rankfleet:demo"""
HAPROXY = """ray::HAProxyManager.ready() (pid=1)
RuntimeError: HAProxy crashed during startup: [NOTICE]   (2573) : haproxy version is 2.8.25-5cf5d0683
[ALERT]    (2573) : Binding [/f:47] for frontend prometheus: cannot bind socket (Address already in use) for [0:9101]
[ALERT]    (2573) : [/bin/haproxy.main()] Some protocols failed to start their listeners! Exiting."""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (OURS, "tier small: /m is not a readable safetensors file: invalid header length\n  and what to do about it"),
        (OTHER, "TypeError: Router.__init__() got multiple values for argument 'config'"),
        (KILLED, "The actor died unexpectedly before finishing this task."),
        (HAPROXY, "HAProxy: Binding [/f:47] for frontend prometheus: cannot bind socket (Address already in use) for "
         "[0:9101]"),
        ("", "Serve gives no reason"),
    ],
    ids=["ours", "another error", "killed", "haproxy", "nothing"],
)  # fmt: skip
def test_the_root_cause_is_found_in_serves_message(message: str, reason: str) -> None:
    assert root_cause(message) == reason


def application(status: str, **deployments: tuple[str, str]) -> Any:
    """As `serve.status()` gives it. deployments: (status, message)."""
    found = {
        name: SimpleNamespace(status=SimpleNamespace(value=how), message=message)
        for name, (how, message) in deployments.items()
    }
    return SimpleNamespace(status=status, message="Failed to update.", deployments=found)


def is_running(
    monkeypatch: pytest.MonkeyPatch, status: str, config: FleetConfig | None = None, **deployments: tuple[str, str]
) -> list[str]:
    """What is shown of a fleet in this state. config: that was deployed last."""
    from ray import serve

    now = SimpleNamespace(applications={deploy.APP_NAME: application(status, **deployments)})
    monkeypatch.setattr(serve, "status", lambda: now)
    shown: list[str] = []
    deploy.is_running(shown.append, config)
    return shown


def test_a_rankfleet_error_is_final_at_the_first_try(monkeypatch: pytest.MonkeyPatch) -> None:
    trying = OURS.replace("The deployment failed to start 3 times in a row.", "A replica failed to start. Retrying.")
    with pytest.raises(LaunchError, match=r"^tier small: /m is not") as fault:
        is_running(monkeypatch, "DEPLOYING", demo=("UPDATING", trying), router=("UPDATING", OTHER))
    assert "TypeError" not in str(fault.value)


def of_file(settings: dict[str, Any]) -> str:
    """What Serve reports of a replica that cannot start for this file."""
    trying = OURS.replace("The deployment failed to start 3 times in a row.", "A replica failed to start. Retrying.")
    return f"{trying}\n{OF_FILE}{settings_name(settings)}\n"


@pytest.mark.parametrize("settings", [fleet().for_groups, fleet().model_dump(mode="json")], ids=["group", "router"])
def test_a_replica_that_cannot_start_for_an_earlier_file_is_no_failure_of_the_next(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {"demo": ("UPDATING", of_file(settings))}
    with pytest.raises(LaunchError, match=r"^tier small: /m is not (?s:.*) what to do about it$"):
        is_running(monkeypatch, "DEPLOYING", fleet(), **failing)
    with pytest.raises(LaunchError, match="tier small: /m is not"):
        is_running(monkeypatch, "DEPLOYING", **failing)
    other = fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "dtype": "float32"}})
    assert is_running(monkeypatch, "DEPLOYING", other, **failing) == ["group demo: loading"]


def test_other_errors_are_shown_while_serve_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = is_running(monkeypatch, "DEPLOYING", demo=("HEALTHY", ""), router=("UPDATING", OTHER))
    reason = "TypeError: Router.__init__() got multiple values for argument 'config'"
    assert shown == [f"router: {reason}; trying again"]
    with pytest.raises(LaunchError, match=r"^the router does not start: TypeError: "):
        is_running(monkeypatch, "DEPLOY_FAILED", router=("DEPLOY_FAILED", OTHER.replace("Retrying", "")))


def test_a_fleet_whose_application_cannot_be_built_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_running(monkeypatch, "DEPLOYING") == ["fleet: waiting"]
    with pytest.raises(LaunchError, match="the fleet did not start: Failed to update"):
        is_running(monkeypatch, "DEPLOY_FAILED")


def test_a_running_fleet_says_what_it_has_lost_and_what_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve
    from ray.serve.schema import DeploymentStatusTrigger, ReplicaState

    broken = application("UNHEALTHY", demo=("UNHEALTHY", OURS), big=("UNHEALTHY", ""), router=("HEALTHY", ""))
    for state in broken.deployments.values():
        state.status_trigger, state.replica_states = DeploymentStatusTrigger.REPLICA_STARTUP_FAILED, {}
    big = broken.deployments["big"]
    big.status_trigger = DeploymentStatusTrigger.HEALTH_CHECK_FAILED
    big.replica_states = {ReplicaState.STARTING: 1, ReplicaState.RUNNING: 2}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={deploy.APP_NAME: broken}))
    lost, (failure,) = lost_and_failing()
    assert lost == {"group big": 2}
    assert failure.startswith("group demo does not start: tier small: /m is not a readable")


def test_an_error_of_ray_becomes_one_sentence() -> None:
    with pytest.raises(LaunchError, match=r"^Ray did not start: No space left$"), as_launch_error("Ray"):
        raise RuntimeError("\x1b[31mNo space left\x1b[0m\nTraceback and more")
    with pytest.raises(ConfigError, match="mine"), as_launch_error("Ray"):
        raise ConfigError("mine")


def test_every_deployment_that_failed_is_named() -> None:
    failures = start_failures(application("DEPLOY_FAILED", demo=("DEPLOY_FAILED", KILLED), router=("UPDATING", OTHER)))
    assert explain_failure("", failures).splitlines() == [
        "group demo does not start: The actor died unexpectedly before finishing this task.",
        "the router does not start: TypeError: Router.__init__() got multiple values for argument 'config'",
    ]


def test_a_free_port_is_none_that_the_kernel_gives_to_others() -> None:
    ephemeral = range(*map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()))
    port = environment.free_port()
    assert port not in ephemeral
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not environment.is_free("0.0.0.0", port)
