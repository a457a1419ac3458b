"""Environment variables that Ray and Serve read when they start, on the head and on every worker, and the folders that
they name."""

import os
import secrets
import stat
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Serve's low-latency path: HAProxy hands requests straight to the router, user code runs on the main loop. The
# push intervals let the autoscaling policy see a burst within a second; the buckets lie around usual budgets.
# Ranking twice does no harm, so HAProxy may send a request again when its router died. For that it has to have all of
# it before it sends any, by an option that Serve has no setting for: it goes into the file behind one that has, and
# so does the time after which a client that sends its request too slowly is cut off.
LOW_LATENCY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HAPROXY_RETRY_ON": (
        "conn-failure empty-response\n    option http-buffer-request\n    timeout http-request 30s"
    ),
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",  # for clients that do not read their reply, which takes memory so long
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "262144",
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "5,10,20,35,50,75,100,150,200,350,500,1000,2000,5000",
}
# On one computer: logs go to Ray's files, not to the terminal; usage statistics are sent nowhere; other users of
# the machine may not command the cluster. A busy computer may take longer than Serve's 5 s to start its proxy,
# which Serve kills after three such waits. Models of the hub have been fetched by then, and the fleet's processes
# know no proxy: they look into the cache and ask nobody.
LOCAL = {
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "HF_HUB_OFFLINE": "1",
}
# Ports Serve opens besides its HTTP port, and their defaults.
SIDE_PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}

# Variables that send a program's connections through a proxy, in small or capital letters.
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"})
# The path of a Unix socket has at most 107 bytes. HAProxy's take up to 78 of them behind the folder (the node's id,
# "admin.sock", a process id, ".tmp"), Ray's up to 66 ("session_…/sockets/plasma_store").
MAX_FOLDER_BYTES = 107 - 78
MAX_RAY_TEMP_BYTES = 107 - 66


def leave_proxies(environment: MutableMapping[str, str]) -> None:
    """Remove the variables of PROXIES.

    A fleet's processes talk to each other and to nothing else, and they do so at the node's own address: gRPC, which
    Serve's router uses, would ask the proxy for it, since `no_proxy=localhost` does not cover that address. Adding
    every address of the node to `no_proxy` would do as well, but each library reads that variable in its own way.
    """
    for name in [name for name in environment if name.lower() in PROXIES]:
        del environment[name]


def user_folder() -> Path:
    """A folder that only this user can write to, in the temporary folder: made where it is missing.

    It is in /tmp where the temporary folder's own path is too long for sockets. Raises OSError that says what to set.
    """
    name = f"rankfleet-{os.getuid()}"
    folders = dict.fromkeys(Path(base) / name for base in (tempfile.gettempdir(), "/tmp"))
    for folder in folders:
        if len(os.fsencode(folder)) <= MAX_FOLDER_BYTES and is_own(folder):
            return folder
    raise OSError(
        f"{' and '.join(map(str, folders))} cannot be made, or belong to another user; set TMPDIR to a folder of yours "
        f"whose path has at most {MAX_FOLDER_BYTES - len(name) - 1} bytes"
    )


def is_own(folder: Path) -> bool:
    """Whether it is there or could be made, and nobody else can put anything into it: what lies there is trusted."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    alone = found.st_uid == os.getuid() and not found.st_mode & 0o022
    return stat.S_ISDIR(found.st_mode) and alone and os.access(folder, os.W_OK | os.X_OK)


def can_write(folder: Path) -> bool:
    """Whether files can be made in it. It is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def haproxy_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Where HAProxy keeps its settings and sockets. Serve's own choice, /tmp/haproxy-serve, belongs to the first user
    who starts a fleet on the machine, and no other can write there. Raises OSError."""
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    }
    return {name: str(user_folder() / file) for name, file in files.items() if name not in environment}


def token_place(environment: Mapping[str, str]) -> dict[str, str]:
    """Where Ray's token lies when the home folder cannot keep it: one is made in `user_folder`, where `apply` finds it
    too. Empty where Ray can use its own place, ~/.ray, or the environment names another. Raises OSError."""
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
    """The file with the token that a fleet of this environment has; None where it is in no file."""
    if environment.get("RAY_AUTH_TOKEN"):
        return None
    return environment.get("RAY_AUTH_TOKEN_PATH") or str(Path(environment.get("HOME", "/"), ".ray", "auth_token"))


def can_read(path: Path) -> bool:
    """Whether it is a file with something in it that this user may read."""
    try:
        return path.stat().st_size > 0 and os.access(path, os.R_OK)
    except OSError:
        return False


def ray_temp(environment: Mapping[str, str]) -> dict[str, str]:
    """RAY_TMPDIR for a machine where Ray's own choice does not do: it cannot be written, or its path is too long.

    Empty where it does. Raises OSError where RAY_TMPDIR is set and does not do.
    """
    base = Path(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp")
    short = len(os.fsencode(base / "ray")) <= MAX_RAY_TEMP_BYTES
    if short and can_write(base / "ray"):
        return {}
    if environment.get("RAY_TMPDIR"):
        why = "cannot be written" if short else f"is too long for Ray's sockets: {MAX_RAY_TEMP_BYTES - 4} bytes at most"
        raise OSError(f"RAY_TMPDIR ({base}) {why}; set it to another folder, or to none")
    return {"RAY_TMPDIR": str(user_folder())}
