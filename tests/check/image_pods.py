"""Starts the pods of a rendered fleet on this computer, in the root file system that `tests.check.image` has built.

    python -m tests.check.image_pods --image FOLDER/cpu --service k8s/overlays/demo/rayservice.yaml

As root, on Linux. Each pod has namespaces of its own (mounts, processes, network), a read-only root with the pod's
volumes as its only writable places, a user id without a name, no capabilities, and no way to any hub. It starts as
KubeRay starts it, and its probes are KubeRay's. The operator's part, handing the Serve config to the head, is done from
a network namespace beside them. A key is rotated. Groups that may sleep fall asleep and are woken. Where the fleet
keeps its state in a Redis, the head is lost and started again (needs redis-server). Prints what was found; ends with an
error if anything is not so.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rankfleet.api.keys import line_of, new_key

TOKEN = "0" * 64  # of Ray's control plane; KubeRay makes one and hands it to all pods
PASSWORD = "of-this-rehearsal"
START_S = 900.0
NODE = "rankfleet-node"  # the network namespace that has the bridge between the pods
SUBNET = "10.88.0"
BESIDE = f"{SUBNET}.1"
HEAD = "fleet-head-svc.default.svc.cluster.local"
COMMON = "--metrics-export-port=8080 --block --dashboard-agent-listen-port=52365"
RAYLET_IS_WELL = "wget --tries 1 -T 10 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
PROXY_IS_WELL = "wget --tries 1 -T 10 -q -O- http://localhost:8000/-/healthz | grep success"
# $1 root, $2 volumes as FOLDER:PATH[:ro] ...; then the program that starts inside
START = """\
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
for each in $2; do
    rest=${each#*:}; path=${rest%%:*}
    mount --bind "${each%%:*}" "$1$path"
    [ "$path" = "$rest" ] || mount -o remount,bind,ro "$1$path"
done
mount -o remount,bind,ro "$1"
shift 2
exec "$@"
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def address(number: int) -> str:
    """Of a pod."""
    return f"{SUBNET}.{number + 10}"


def namespace(number: int) -> str:
    """The network namespace of a pod."""
    return f"rankfleet-pod-{number}"


@contextmanager
def network(pods: int) -> Iterator[None]:
    """Network namespaces for so many pods, joined by a bridge that leads nowhere else."""
    made: list[str] = []
    try:
        for name in (NODE, *map(namespace, range(pods))):
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", NODE, "link", "add", "pods", "type", "bridge")
        run("ip", "-n", NODE, "addr", "add", f"{BESIDE}/24", "dev", "pods")
        run("ip", "-n", NODE, "link", "set", "pods", "up")
        for number, name in enumerate(made[1:]):
            run("ip", "-n", NODE, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", NODE, "link", "set", f"p{number}", "master", "pods", "up")
            run("ip", "-n", name, "addr", "add", f"{address(number)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        for name in made:
            run("ip", "netns", "delete", name)


@dataclass
class Pod:
    """A pod that can be started, and started again.

    number: of its network namespace. spec: of its template. start: Ray's options, as KubeRay gives them. environment:
    what KubeRay adds. root, made: the image. folder: where its volumes are. uid: the user that it runs as.
    """

    number: int
    spec: dict[str, Any]
    start: str
    environment: dict[str, str]
    root: Path
    made: dict[str, Any]
    folder: Path
    uid: int
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        given = {each["name"]: each["value"] for each in self.spec["containers"][0]["env"] if "value" in each}
        self.environment = self.made["environment"] | given | self.environment

    def begin(self) -> None:
        """Start it with empty volumes, as a new pod has."""
        self.folder.mkdir()
        command = f"cd {self.made['folder']}; ulimit -n 65536; ray start {self.start} {COMMON}"
        own = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork")
        mounts = ("sh", "-ec", START, "sh", str(self.root), " ".join(self.mounted()))
        words = ["ip", "netns", "exec", namespace(self.number), *own, *mounts, *self.inside(command)]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(words, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def mounted(self) -> Iterator[str]:
        """Folders of this computer in place of the pod's volumes, and where they are mounted."""
        mounts = {mount["name"]: mount for mount in self.spec["containers"][0]["volumeMounts"]}
        for volume in self.spec["volumes"]:
            mount = mounts[volume["name"]]
            source = self.folder.parent / "keys" if "secret" in volume else self.folder / volume["name"]
            source.mkdir(exist_ok=True)
            source.chmod(0o777)
            (self.root / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
            yield f"{source}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{address(0)} {HEAD}\n{address(self.number)} pod-{self.number}\n")
        (self.root / "etc/hosts").touch()
        yield f"{hosts}:/etc/hosts:ro"

    def inside(self, command: str) -> list[str]:
        """A command in the pod's root, as OpenShift runs it: by a user without a name, in the group of root."""
        user = ("--reuid", str(self.uid), "--regid", "0", "--clear-groups")
        nothing = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
        return ["chroot", str(self.root), "setpriv", *user, *nothing, "/bin/bash", "-c", "--", command]

    def succeeds(self, command: str) -> bool:
        """Whether a command succeeds in the running pod, as probes and hooks do."""
        namespaces = ("--mount", "--pid", "--ipc", "--uts", "--net")
        words = ["nsenter", "--target", str(self.first_process()), *namespaces, *self.inside(command)]
        return subprocess.run(words, env=self.environment, capture_output=True).returncode == 0

    def is_well(self) -> bool:
        """KubeRay's liveness probe."""
        return self.succeeds(RAYLET_IS_WELL)

    def is_ready(self) -> bool:
        """KubeRay's readiness probe of a worker that serves."""
        return self.succeeds(f"{RAYLET_IS_WELL} && {PROXY_IS_WELL}")

    def first_process(self) -> int:
        """The id of the pod's first process, as seen from outside."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.1)  # the namespaces are being made
        return int(found[0])

    def end(self) -> None:
        """Kill all its processes at once: the kernel does, when the first one is killed."""
        if self.process and self.process.poll() is None:
            os.kill(self.first_process(), signal.SIGKILL)
            self.process.wait()


ASK = """\
import sys, json, httpx
method, url, key, body = sys.argv[1:]
headers = {"authorization": "Bearer " + key} if key else {}
reply = httpx.request(method, url, headers=headers, json=json.loads(body), timeout=120, trust_env=False)
print(json.dumps([reply.status_code, reply.json() if "json" in reply.headers.get("content-type", "") else {}]))
"""


def ask(method: str, url: str, key: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """A request from beside the pods: the status, 0 without a reply, and the reply's JSON."""
    command = ["ip", "netns", "exec", NODE, sys.executable, "-c", ASK, method, url, key, json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True)
    status, reply = json.loads(done.stdout) if done.returncode == 0 else (0, {})
    return status, reply


def rank(pod: Pod, key: str, **more: Any) -> int:
    """The status of a request to a pod. Fails if the answer is wrong. more: keys of the request."""
    body = {"query": "cat", "documents": ["a dog", "a cat"], **more}
    status, reply = ask("POST", f"http://{address(pod.number)}:8000/v1/rerank", key, body)
    assert status != 200 or reply["results"][0]["index"] == 1, reply
    return status


def wait(what: str, is_so: Callable[[], bool]) -> None:
    """Until it is so. Raises TimeoutError after START_S."""
    began_s = time.monotonic()
    while not is_so():
        if time.monotonic() > began_s + START_S:
            raise TimeoutError(what)
        time.sleep(1)
    print(f"{what}: after {time.monotonic() - began_s:.0f} s", flush=True)


def pods_of(service: dict[str, Any], image: Path, folder: Path, uid: int) -> list[Pod]:
    """The head, then the workers that the fleet starts with."""
    cluster = service["spec"]["rayClusterConfig"]
    shared = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_ADDRESS": f"{HEAD}:6379", "FQ_RAY_IP": HEAD}
    shared |= {"RAY_USAGE_STATS_KUBERAY_IN_USE": "1", "RAY_enable_autoscaler_v2": "1"}
    head = "--head --dashboard-host=0.0.0.0 --no-monitor --num-cpus=0 --port=6379 "
    head += f"--node-ip-address={address(0)}"
    states, lasting = {}, {}
    if "gcsFaultToleranceOptions" in cluster:
        states = {"RAY_REDIS_ADDRESS": f"{BESIDE}:6379", "REDIS_PASSWORD": PASSWORD}
        states |= {"RAY_external_storage_namespace": "rehearsal"}
        head += f" --redis-password={PASSWORD}"
        lasting = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
    starts = [(cluster["headGroupSpec"]["template"]["spec"], head, shared | states)]
    for group in cluster["workerGroupSpecs"]:
        labels = ",".join(f"{key}={value}" for key, value in group["labels"].items())
        start = f"--address={HEAD}:6379 --num-cpus={group['resources']['CPU']} --labels={labels}"
        starts += [(group["template"]["spec"], start, shared | lasting)] * group["replicas"]
    made = json.loads(image.with_suffix(".json").read_text())
    return [
        Pod(number, spec, start, dict(environment), image, made, folder / f"pod-{number}", uid)
        for number, (spec, start, environment) in enumerate(starts)
    ]


def rehearse(service: dict[str, Any], pods: list[Pod], folder: Path) -> None:
    """Start all pods, hand over the Serve config, and ask each worker; rotate the key, and lose the head."""
    head, *workers = pods
    keys, first, second = folder / "keys", new_key(), new_key()
    keys.mkdir()
    (keys / "keys").write_text(f"{line_of(first, 'one')}\n")
    for pod in pods:
        pod.begin()
        wait(f"pod {pod.number} has a raylet that is well", pod.is_well)
    assert not any(pod.succeeds("touch /opt/rankfleet/x || touch /etc/x || id -un") for pod in pods)
    print("no pod's user has a name, or can write to the root", flush=True)
    applications = f"http://{address(0)}:8265/api/serve/applications/"
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert ask("PUT", applications, "", config)[0] in (401, 403), "the dashboard asks for Ray's token"
    wait("the head has taken the Serve config", lambda: ask("PUT", applications, TOKEN, config)[0] == 200)

    def is_running() -> bool:
        status, reply = ask("GET", applications, TOKEN)
        return status == 200 and reply["applications"].get("rankfleet", {}).get("status") == "RUNNING"

    wait("all deployments run", is_running)
    for pod in workers:
        wait(f"pod {pod.number} is ready by KubeRay's probe", pod.is_ready)
        assert rank(pod, "") == 401
        assert rank(pod, first) == 200
    print("every worker answers with the key, and not without", flush=True)
    (keys / "keys").write_text(f"{line_of(second, 'one')}\n")
    wait("a new key is taken, and the old one is not", lambda: rank(workers[0], second) == 200)
    assert rank(workers[0], first) == 401
    for each in config["applications"][0]["deployments"]:
        if each["autoscaling_config"]["min_replicas"] == 0:
            sleep_and_wake(each, applications, workers[0], second)
    if "RAY_REDIS_ADDRESS" in head.environment:
        before = head.folder
        head.end()
        assert ask("GET", applications, TOKEN)[0] == 0, "nobody answers in place of the head"
        statuses = [rank(pod, second) for _ in range(10) for pod in workers]
        assert set(statuses) == {200}, statuses
        print(f"without a head the workers answer {len(statuses)} of {len(statuses)} requests", flush=True)
        head.folder = before.with_name("pod-0-again")
        head.begin()
        assert not head.is_well()
        wait("a new head has a raylet that is well", head.is_well)
        wait("it has found the Serve config in Redis, and all deployments run", is_running)
        assert {rank(pod, second) for pod in workers} == {200}
    ending = workers[-1]
    (shell, option, hook) = ending.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    began_s = time.monotonic()
    assert ending.succeeds(f"{shell} {option} {shlex.quote(hook)}")
    assert not ending.is_well(), "preStop waits until the raylet has ended"
    print(f"preStop of pod {ending.number}: its raylet has ended after {time.monotonic() - began_s:.0f} s", flush=True)


def sleep_and_wake(deployment: dict[str, Any], applications: str, worker: Pod, key: str) -> None:
    """Wait until a group has no replica, and ask for its tier."""
    name = deployment["name"]
    tier = deployment["user_config"]["groups"][name]["tiers"][0]

    def sleeps() -> bool:
        _, reply = ask("GET", applications, TOKEN)
        return not reply["applications"]["rankfleet"]["deployments"][name]["replicas"]

    wait(f"{name} has no replica", sleeps)
    wait(f"a request for {tier} wakes it", lambda: rank(worker, key, model=tier, slo_ms=100_000) == 200)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--service", type=Path, required=True, help="a rendered rayservice.yaml without GPUs")
    parser.add_argument("--uid", type=int, default=1_000_710_000)
    words = parser.parse_args()
    service = yaml.safe_load(words.service.read_text())
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)
        pods = pods_of(service, words.image, folder, words.uid)
        running.enter_context(network(len(pods)))
        if "RAY_REDIS_ADDRESS" in pods[0].environment:
            options = ["--bind", BESIDE, "--requirepass", PASSWORD, "--save", "", "--dir", name]
            redis = subprocess.Popen(["ip", "netns", "exec", NODE, "redis-server", *options], stdout=subprocess.DEVNULL)
            running.callback(redis.wait)
            running.callback(redis.kill)
        try:
            for pod in pods:
                running.callback(pod.end)
            rehearse(service, pods, folder)
        except BaseException:
            for log in sorted(folder.glob("pod-*/log")):
                print(f"--- {log.parent.name}\n{log.read_text()[-2000:]}")
            raise


if __name__ == "__main__":
    main()
