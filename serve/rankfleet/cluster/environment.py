"""Environment variables that Ray and Serve read when they start, and the folders that they name."""

import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from rankfleet.cluster.failures import LaunchError
from rankfleet.core.bounds import MAX_CONNECTIONS, PROXY_BUFFER_BYTES, READ_TIMEOUT_S, UNREAD_BYTES, WRITE_TIMEOUT_S

# For the head and every worker. Serve's low-latency settings: HAProxy passes requests directly to a router, and user
# code runs on the main event loop. The push intervals let the autoscaling policy see a burst within a second. The
# latency buckets are denser around typical budgets.
# Ranking is idempotent, so HAProxy may send a request to another router when the first one died. It has to hold the
# whole request for that (`option http-buffer-request`), for which Serve has no setting, nor for the time after which a
# client that sends too slowly is cut off. HTTP/2 without TLS is off: one connection could have a hundred streams, which
# no limit of connections counts. All three stand behind the value of a setting that goes into HAProxy's configuration
# as it is (cluster/ray_private.py), and so does the kernel's memory for replies that a client does not read.
# HAProxy takes one router after the other. By fewest connections, the default here, a client that leaves replies unread
# at one router would send all others to the rest, which have only their parts of those tenants' rates.
# Serve calls what the callback names in routers and proxies (cluster/http_server.py).
# Requests are counted by routers. If HAProxy did that, it would write a line for each, which another process parses,
# and whose label for the method is whatever the client has sent.
LOW_LATENCY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": f"roundrobin\nglobal\n    tune.sndbuf.client {UNREAD_BYTES}",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rankfleet.cluster.http_server.http_middlewares",
    "RAY_SERVE_HAPROXY_RETRY_ON": (
        "conn-failure empty-response\n    option http-buffer-request\n    option disable-h2-upgrade\n"
        f"    timeout http-request {READ_TIMEOUT_S}s"
    ),
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(WRITE_TIMEOUT_S),
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_MAXCONN": str(MAX_CONNECTIONS),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(PROXY_BUFFER_BYTES),
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # requests write no lines, and others should not wait for 999 more
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "5,10,20,35,50,75,100,150,200,350,500,1000,2000,5000",
}
# For a fleet on one computer. Logs go to Ray's files and not to the terminal. No usage statistics are sent. A token
# keeps other users of the computer out of the cluster. A busy computer may need more than Serve's default of 5 s to
# start the proxy, which Serve kills after three such waits. The hub is not asked: models have been fetched before.
# Ray starts its workers with a niceness of 15: beside any busy process they would get a thirtieth of a core.
LOCAL = {
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "RAY_worker_niceness": "0",
    "HF_HUB_OFFLINE": "1",
}
# Ports that Serve opens besides its HTTP port, and their defaults.
SIDE_PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}

# Variables that send a program's connections through a proxy, in lower or upper case.
PROXY_VARIABLES = frozenset({"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"})
# For `free_port`: above those of Ray's workers and below those of Serve's replicas, at their defaults.
FREE_PORTS = range(20_000, 30_000)
# The path of a Unix socket has at most 107 bytes. After the folder, HAProxy needs up to 78 of them (the node's id,
# "admin.sock", a process id, ".tmp"), and Ray up to 66 ("session_…/sockets/plasma_store").
MAX_FOLDER_BYTES = 107 - 78
MAX_RAY_TEMP_BYTES = 107 - 66


def prepare_environment() -> None:
    """Set what Ray and Serve read, for this process and all that it starts. Raises LaunchError, which says what to set,
    if there is no folder for their files."""
    remove_proxies(os.environ)
    os.environ.update(ray_temp_dir(os.environ) | token_location(os.environ) | haproxy_files(os.environ))
    os.environ.update(LOW_LATENCY | LOCAL | side_ports())


def remove_proxies(environment: MutableMapping[str, str]) -> None:
    """Remove the variables of PROXY_VARIABLES.

    The processes of a fleet talk only to each other, at the node's own address. gRPC, which Serve's router uses, would
    go through the proxy for it, since `no_proxy=localhost` does not cover that address. Adding every address of the
    node to `no_proxy` would help too, but each library reads that variable in its own way.
    """
    for name in [name for name in environment if name.lower() in PROXY_VARIABLES]:
        del environment[name]


def is_free(host: str, port: int) -> bool:
    """Whether a server can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_port(host: str, port: int) -> None:
    """Raises LaunchError if a server cannot listen there."""
    if not is_free(host, port):
        raise LaunchError(f"{host}:{port} is in use or not an address of this computer; choose another with --port")


def side_ports() -> dict[str, str]:
    """Variables with free ports in place of those of SIDE_PORTS that are taken, for instance by another fleet."""
    chosen = {}
    for name, default in SIDE_PORTS.items():
        if name not in os.environ and not is_free("0.0.0.0", default):
            chosen[name] = str(free_port())
    return chosen


def free_port() -> int:
    """A port that nothing uses now, at any address of this computer.

    It is none of those that the kernel gives to whoever asks for any (on Linux from 32768): the processes of a fleet
    that starts take hundreds of them, and one could be this before it is bound. Raises LaunchError if none is found.
    """
    for _ in range(1000):
        port = secrets.choice(FREE_PORTS)
        if is_free("0.0.0.0", port):
            return port
    raise LaunchError(f"no free port was found between {FREE_PORTS.start} and {FREE_PORTS.stop}; end other programs")


def user_folder() -> Path:
    """A folder that only this user can write to, inside the temporary folder; created if it is missing.

    It is in /tmp if the temporary folder's path is too long for sockets. Raises LaunchError that says what to set.
    """
    name = f"rankfleet-{os.getuid()}"
    folders = dict.fromkeys(Path(base) / name for base in (tempfile.gettempdir(), "/tmp"))
    for folder in folders:
        if len(os.fsencode(folder)) <= MAX_FOLDER_BYTES and is_own(folder):
            return folder
    raise LaunchError(
        f"{' and '.join(map(str, folders))} cannot be created, or belong to another user; set TMPDIR to a folder of "
        f"yours whose path has at most {MAX_FOLDER_BYTES - len(name) - 1} bytes"
    )


def is_own(folder: Path) -> bool:
    """Whether a folder exists or could be created, and no other user can write to it. Its content is trusted then."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    alone = found.st_uid == os.getuid() and not found.st_mode & 0o022
    return stat.S_ISDIR(found.st_mode) and alone and os.access(folder, os.W_OK | os.X_OK)


def can_write(folder: Path) -> bool:
    """Whether files can be created in a folder, which is created if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def haproxy_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with the paths of HAProxy's configuration and sockets, without those that are set already.

    Serve's default, /tmp/haproxy-serve, belongs to the first user who starts a fleet on the computer, and others cannot
    write there. Raises LaunchError.
    """
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    }
    return {name: str(user_folder() / file) for name, file in files.items() if name not in environment}


def token_location(environment: Mapping[str, str]) -> dict[str, str]:
    """RAY_AUTH_TOKEN_PATH if the home folder cannot hold Ray's token: a token is then created in `user_folder`.

    Empty if Ray can use its default, ~/.ray, or the environment names a token. Raises LaunchError.
    """
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return {}
    home = environment.get("HOME")
    if home and (can_read(Path(home, ".ray", "auth_token")) or can_write(Path(home, ".ray"))):
        return {}
    path = user_folder() / "auth_token"
    if not can_read(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return {"RAY_AUTH_TOKEN_PATH": str(path)}


def token_path(environment: Mapping[str, str]) -> str | None:
    """The file with the token of a fleet with this environment; None if the token is in no file."""
    if environment.get("RAY_AUTH_TOKEN"):
        return None
    return environment.get("RAY_AUTH_TOKEN_PATH") or str(Path(environment.get("HOME", "/"), ".ray", "auth_token"))


def can_read(path: Path) -> bool:
    """Whether this is a file that this user may read, and not an empty one."""
    try:
        return path.stat().st_size > 0 and os.access(path, os.R_OK)
    except OSError:
        return False


def ray_temp_dir(environment: Mapping[str, str]) -> dict[str, str]:
    """RAY_TMPDIR if Ray's default folder cannot be written or its path is too long for sockets; empty if it will do.

    Raises LaunchError if RAY_TMPDIR is set to a folder that cannot be used.
    """
    base = Path(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp")
    short = len(os.fsencode(base / "ray")) <= MAX_RAY_TEMP_BYTES
    if short and can_write(base / "ray"):
        return {}
    if environment.get("RAY_TMPDIR"):
        why = "cannot be written" if short else f"is too long for Ray's sockets: {MAX_RAY_TEMP_BYTES - 4} bytes at most"
        raise LaunchError(f"RAY_TMPDIR ({base}) {why}; set it to another folder, or unset it")
    return {"RAY_TMPDIR": str(user_folder())}
