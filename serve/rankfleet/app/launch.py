"""A fleet on this one computer: start Ray, start Serve, wait until it ranks, change it, stop it all again.

Ray reads its settings from the environment when it is first imported, so nothing here imports it before they
are there.
"""

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from rankfleet.core.config import FleetConfig
from rankfleet.core.environment import (
    LOCAL,
    LOW_LATENCY,
    SIDE_PORTS,
    haproxy_files,
    leave_proxies,
    ray_temp,
    token_path,
    token_place,
    user_folder,
)
from rankfleet.core.errors import CheckpointError, ConfigError, RankfleetError
from rankfleet.core.serveconfig import APP_NAME, ROUTER, serve_config
from rankfleet.engine.checkpoint import find_checkpoint
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.profile import read_profile
from rankfleet.routing.quality import quality_table

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

POLL_S = 0.25
SETTLE_S = 1.0
NOTES = "fleets"  # a folder in `user_folder`: one file for each fleet that runs, named by the process that started it
ANSI = re.compile(r"\x1b\[[0-9;]*m")
OURS = re.compile(r"^rankfleet\.core\.errors\.\w+: ", re.MULTILINE)  # the last line of a traceback of ours
HAPROXY = re.compile(r"^\[ALERT\]\s+\(\d+\) : (.*)$", re.MULTILINE)
OTHERS = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)(?:: .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Running:
    """Where a started fleet is reached. metrics: Prometheus metrics of this node."""

    address: str
    metrics: str


@dataclass(frozen=True)
class Fleet:
    """One that runs on this computer. cluster: Ray's own address; token: the file with what opens it."""

    address: str
    port: int
    cluster: str
    token: str | None


@dataclass(frozen=True)
class Trouble:
    """Why a replica of a deployment does not start. ours: the message is one of RankfleetError, and the next try would
    end in the same way."""

    deployment: str
    reason: str
    ours: bool

    def __str__(self) -> str:
        who = "the router" if self.deployment == ROUTER else f"group {self.deployment}"
        return f"{who} does not start: {self.reason}"


class LaunchError(RankfleetError):
    """The fleet could not be started or reached here; the message says why and what to do."""

    code = "launch"


def start(config: FleetConfig, host: str, port: int, progress: Callable[[str], None]) -> Running:
    """Start the fleet and return where it is once it ranks. `progress` hears what is going on.

    Raises CheckpointError, ConfigError, LaunchError, before anything is started where that can be known.
    """
    check_port(host, port)
    check_fits(config)
    check_files(config, progress)
    prepare_kernels(config, progress)
    with one_at_a_time(progress):
        check_port(host, port)
        prepare_environment()
        import ray
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig

        progress("starting Ray")
        with one_sentence("Ray"):
            # "local": its own, whatever RAY_ADDRESS says and whatever else runs here.
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                namespace="serve",
            )
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        progress("starting Ray Serve")
        with one_sentence("Ray Serve"):
            serve.start(
                http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(enable_access_log=False)
            )
    progress("starting the router and the replica groups")
    with one_sentence("the fleet"):
        deploy(config)
        address = f"http://{host}:{port}"
        wait_until_ready(address, progress)
        note_fleet(Fleet(address, port, ray.get_runtime_context().gcs_address, token_path(os.environ)))
        return Running(address, f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics")


@contextmanager
def one_at_a_time(progress: Callable[[str], None]) -> Iterator[None]:
    """Let another fleet of this user that is starting go first, until its ports are taken: two that look for free ports
    at the same time find the same ones. Raises LaunchError."""
    import fcntl

    try:
        lock = (user_folder() / "starting").open("w")
    except OSError as error:
        raise LaunchError(str(error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another fleet of yours that is starting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare_environment() -> None:
    """Set what Ray and Serve read, for this process and all that it starts. Raises LaunchError that says what to set
    where there is no folder for their files."""
    leave_proxies(os.environ)
    try:
        os.environ.update(ray_temp(os.environ) | token_place(os.environ) | haproxy_files(os.environ))
    except OSError as error:
        raise LaunchError(str(error)) from error
    os.environ.update(LOW_LATENCY | LOCAL | side_ports())


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Raises LaunchError for whatever goes wrong inside, with the last line of it and where the rest is."""
    try:
        yield
    except RankfleetError:
        raise
    except Exception as error:
        raise LaunchError(f"{what} did not start: {reason_of(str(error))}{see_logs()}") from error


def see_logs() -> str:
    """Where the logs of the cluster that this process has started are, as the end of a sentence."""
    node = getattr(sys.modules.get("ray._private.worker"), "_global_node", None)
    return f"; logs are in {node.get_logs_dir_path()}" if node else ""


def prepare_kernels(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Compile the CPU's kernels here and once, instead of in every replica at the same time."""
    if any(group.gpus == 0 for group in config.groups.values()):
        from rankfleet.engine.native.library import library

        progress("preparing the CPU kernels; the first time takes about 15 seconds")
        library()


def apply(config: FleetConfig, progress: Callable[[str], None], port: int | None = None) -> None:
    """Change the fleet that `rankfleet serve` runs on this computer to `config`, and return once it runs. port: which
    one, where there are several.

    Raises CheckpointError, ConfigError; LaunchError when no fleet runs or the changed one does not start.
    """
    check_fits(config)
    check_files(config, progress)
    if config.updates.surge_percent and not room_to_surge(config):
        progress("no cores are free for new replicas beside the old ones, so those stop first")
        config = config.model_copy(update={"updates": config.updates.model_copy(update={"surge_percent": 0})})
    fleet = pick_fleet(fleets(), port)
    prepare_environment()
    if fleet.token and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = fleet.token
    import ray

    try:
        ray.init(address=fleet.cluster, logging_level=logging.ERROR, log_to_driver=False, namespace="serve")
    except Exception as error:  # of many classes
        raise LaunchError(
            f"the fleet at {fleet.address} does not answer ({reason_of(str(error))}); where RAY_AUTH_TOKEN was set for "
            "`rankfleet serve`, set it to the same"
        ) from error
    try:
        deploy(config)
        time.sleep(SETTLE_S)  # the controller takes the new config up in its next round
        while not is_running(progress):
            time.sleep(POLL_S)
    finally:
        ray.shutdown()


def note_fleet(fleet: Fleet) -> None:
    """Write down for `apply` that this process runs a fleet."""
    folder = user_folder() / NOTES
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).write_text(json.dumps(asdict(fleet)), encoding="utf-8")


def fleets() -> list[Fleet]:
    """This user's: what `note_fleet` has written in processes that still run."""
    found = []
    try:
        notes = sorted((user_folder() / NOTES).iterdir())
    except OSError:
        return []
    for note in notes:
        try:
            os.kill(int(note.name), 0)
            found.append(Fleet(**json.loads(note.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            note.unlink(missing_ok=True)  # its process was killed, and could not do so itself
    return found


def pick_fleet(found: list[Fleet], port: int | None) -> Fleet:
    """The one that is meant. Never another cluster that happens to run here. Raises LaunchError."""
    meant = [fleet for fleet in found if port in (None, fleet.port)]
    if not meant:
        where = "" if port is None else f" at port {port}"
        raise LaunchError(f"no fleet of yours runs on this computer{where}; start one with `rankfleet serve`")
    if len(meant) > 1:
        each = " or ".join(f"--port {fleet.port}" for fleet in meant)
        raise LaunchError(f"{len(meant)} fleets of yours run on this computer; say which one to change: {each}")
    return meant[0]


def deploy(config: FleetConfig) -> None:
    """Hand the fleet to Serve and return at once. Where it runs already only what differs is changed.

    The way of config files, which `serve deploy` and KubeRay go too: `serve.run` would restart every replica. Its
    REST door needs Ray's dashboard, so this knocks at the controller itself.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    client = _get_global_client()
    if client is None:
        raise LaunchError("Serve does not run on this cluster; start a fleet with `rankfleet serve`")
    client.deploy_apps(ServeDeploySchema.model_validate(serve_config(config)))


def stop() -> None:
    """End what `start` began: every process of this cluster is gone within seconds.

    Serve's own shutdown is left out on purpose. It drains HAProxy for half a minute, which a cluster that keeps
    running needs and one that ends with its terminal does not.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
        with suppress(OSError):
            (user_folder() / NOTES / str(os.getpid())).unlink(missing_ok=True)


def wait_until_ready(address: str, progress: Callable[[str], None]) -> None:
    """Until /readyz says so. Raises LaunchError when a deployment has failed."""
    while True:
        is_running(progress)
        try:
            if httpx.get(f"{address}/readyz", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # the ingress is not up yet
        time.sleep(POLL_S)


def is_running(progress: Callable[[str], None]) -> bool:
    """Whether all deployments are. Raises LaunchError, with the reason first, when one has failed: at once where its
    replica raised an error of ours, and otherwise when Serve has tried often enough."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return False
    failed = application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    found = troubles(application)
    if failed or any(trouble.ours for trouble in found):
        raise LaunchError(why_failed(application.message, found))
    waiting = [name for name, d in application.deployments.items() if d.status.value != "HEALTHY"]
    again = "".join(f"; {trouble}; trying again" for trouble in found)
    if application.deployments:
        progress(f"waiting for {', '.join(waiting) or 'the first scores'}{again}")
    return application.status == ApplicationStatus.RUNNING


def why_failed(message: str, found: list[Trouble]) -> str:
    """Errors of ours alone where there are any, since they say what to do; else all that Serve says, and the logs."""
    if ours := [trouble.reason for trouble in found if trouble.ours]:
        return "\n".join(dict.fromkeys(ours))
    reasons = [str(trouble) for trouble in found] or [f"the fleet did not start: {reason_of(message)}"]
    return "\n".join(dict.fromkeys(reasons)) + see_logs()


def troubles(application: "ApplicationStatusOverview") -> list[Trouble]:
    """Of the deployments that are not healthy, those whose replicas have failed to start."""
    return [
        Trouble(name, reason_of(deployment.message), is_ours(deployment.message))
        for name, deployment in application.deployments.items()
        if deployment.status.value != "HEALTHY" and "failed to start" in deployment.message
    ]


def is_ours(message: str) -> bool:
    return OURS.search(ANSI.sub("", message)) is not None


def reason_of(message: str) -> str:
    """The sentence in what Serve says of a replica that failed: the error at the end of the tracebacks; without one
    the first line."""
    text = ANSI.sub("", message)
    if ours := list(OURS.finditer(text)):
        return text[ours[-1].end() :].strip()
    if alerts := HAPROXY.findall(text):
        return f"HAProxy: {alerts[0].strip()}"
    if others := OTHERS.findall(text):
        return str(others[-1]).strip()
    said = [line.strip() for line in (text.partition("Error:\n")[2] or text).splitlines() if line.strip()]
    return said[0] if said else "Serve gives no reason"


def watch(known: set[str]) -> Iterator[str]:
    """Of a fleet that runs, what is wrong now and is not yet known: replicas that cannot start again."""
    from ray import serve

    application = serve.status().applications.get(APP_NAME)
    for trouble in map(str, troubles(application) if application else []):
        if trouble not in known:
            known.add(trouble)
            yield trouble


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_port(host: str, port: int) -> None:
    """Raises LaunchError when nothing can listen there."""
    if not is_free(host, port):
        raise LaunchError(f"{host}:{port} is in use or not an address of this computer; choose another with --port")


def side_ports() -> dict[str, str]:
    """Free ports in place of those of Serve's side ports that are taken, as by another fleet on this computer."""
    chosen = {}
    for name, default in SIDE_PORTS.items():
        if name not in os.environ and not is_free("0.0.0.0", default):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                chosen[name] = str(probe.getsockname()[1])
    return chosen


def check_files(config: FleetConfig, progress: Callable[[str], None], fetch: bool = True) -> list[str]:
    """Everything that a fleet file names besides itself: `config check`, `serve` and `apply` all ask here.

    Raises what replicas would raise for models, quality table, profile or index that are missing or wrong. Models of
    the hub are fetched here once, not by every replica at the same time; with `fetch` False they are looked for in the
    cache alone. Returns the tiers whose model could not be looked at because it is not there yet.
    """
    unseen = []
    for name, tier in config.tiers.items():
        progress(f"model {name}: {tier.model}")
        try:
            find_checkpoint(tier.model, tier.revision, local_only=not fetch)
            # Whether what is found can be loaded, in its group's dtype, belongs here.
        except CheckpointError as error:
            if not fetch and may_be_of_hub(tier.model):
                unseen.append(name)
                continue
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.filename:
                raise CheckpointError(
                    f"tier {name}: {tier.model} cannot be kept at {cause.filename}: {cause.strerror}; set HF_HOME to a "
                    "folder that can be written"
                ) from error
            raise CheckpointError(f"tier {name}: {error}") from error
    quality_table(config)
    if config.profile:
        missing = [name for name in config.tiers if name not in read_profile(config.profile)]
        if missing:
            raise ConfigError(
                f"profile {config.profile} has no latency of {', '.join(missing)}; write it again with "
                "`rankfleet profile`"
            )
    if config.search:
        Bm25Index.load(Path(config.search.index))
    return unseen


def may_be_of_hub(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))


def reserved(config: FleetConfig, count: Callable[[int], int] = lambda replicas: replicas) -> dict[str, float]:
    """What the replicas to start with take. count: of how many there are, instead of those there should be."""
    taken = {"CPU cores": config.router_cpus * count(config.routers), "GPUs": 0.0}
    for group in config.groups.values():
        replicas = count(max(1, group.replicas.min))
        taken["CPU cores"] += group.cpus * replicas
        taken["GPUs"] += group.gpus * replicas
    return taken


def here() -> dict[str, float]:
    """What this computer has."""
    import torch

    return {"CPU cores": float(os.cpu_count() or 1), "GPUs": float(torch.cuda.device_count())}


def room_to_surge(config: FleetConfig) -> bool:
    """Whether new replicas find room beside the old ones. Serve would wait for it for ever."""
    there = here()
    return all(needed <= there[what] for what, needed in reserved(config, config.updates.at_most).items())


def check_fits(config: FleetConfig) -> None:
    """Raises LaunchError when the replicas to start with need more than this computer has: Ray would wait for it
    for ever."""
    groups, there = config.groups.values(), here()
    for what, needed in reserved(config).items():
        if needed > there[what]:
            raise LaunchError(
                f"this fleet reserves {needed:g} {what} and the machine has {there[what]:g}; lower `cpus` or `gpus` of "
                "the groups (fractions are fine), or take fewer groups"
            )
    if named := sorted({name for group in groups for name in group.resources}):
        raise LaunchError(f"custom resources ({', '.join(named)}) are for clusters; this computer has none")
