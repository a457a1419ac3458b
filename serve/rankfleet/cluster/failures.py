"""Why a fleet does not start: finds the sentence that says what to do in the messages of Ray and Serve."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankfleet.cluster.ray_private import logs_folder
from rankfleet.cluster.serve_config import APP_NAME, ROUTER
from rankfleet.core.errors import RankfleetError

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# The last line of a traceback that ends in one of Rankfleet's errors, and of one that ends in another error.
RANKFLEET_ERROR = re.compile(r"^rankfleet\.core\.errors\.\w+: ", re.MULTILINE)
OTHER_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)(?:: .*)?$", re.MULTILINE)
# Before the `settings_name` of the file for which a replica could not start, in a note of such an error.
OF_FILE = "fleet file "
FILE_NOTE = re.compile(rf"^{OF_FILE}([0-9a-f]+)$", re.MULTILINE)
HAPROXY_ALERT = re.compile(r"^\[ALERT\]\s+\(\d+\) : (.*)$", re.MULTILINE)


class LaunchError(RankfleetError, code="launch"):
    """A fleet could not be started or reached on this computer. The message says why and what to do."""


@dataclass(frozen=True)
class StartFailure:
    """Why replicas of a deployment do not start.

    `is_final`: the reason is one of Rankfleet's errors, and the next try would fail in the same way.
    `file`: `settings_name` of the file for which they do not; empty if the reason does not name it.
    """

    deployment: str
    reason: str
    is_final: bool
    file: str = ""

    def __str__(self) -> str:
        return f"{part_name(self.deployment)} does not start: {self.reason}"


def part_name(deployment: str) -> str:
    return "the router" if deployment == ROUTER else f"group {deployment}"


@contextmanager
def as_launch_error(what: str) -> Iterator[None]:
    """Turn any exception raised inside into a LaunchError: what did not start, the root cause, and where the logs are.
    Rankfleet's own errors pass unchanged."""
    try:
        yield
    except RankfleetError:
        raise
    except Exception as error:
        raise LaunchError(f"{what} did not start: {root_cause(str(error))}{where_logs_are()}") from error


def where_logs_are() -> str:
    """The logs of the cluster that this process has started, as the end of a sentence; empty if it has started none."""
    folder = logs_folder()
    return f"; logs are in {folder}" if folder else ""


def explain_failure(message: str, failures: list[StartFailure]) -> str:
    """Only Rankfleet's errors if there are any, since they say what to do; else everything Serve says, and the logs.

    `message`: Serve's message about the application.
    """
    if final := [failure.reason for failure in failures if failure.is_final]:
        return "\n".join(dict.fromkeys(final))
    reasons = [str(failure) for failure in failures] or [f"the fleet did not start: {root_cause(message)}"]
    return "\n".join(dict.fromkeys(reasons)) + where_logs_are()


def start_failures(application: "ApplicationStatusOverview") -> list[StartFailure]:
    """The deployments that are not healthy because replicas failed to start."""
    return [
        start_failure(name, ANSI.sub("", state.message))
        for name, state in application.deployments.items()
        if state.status.value != "HEALTHY" and "failed to start" in state.message
    ]


def start_failure(deployment: str, text: str) -> StartFailure:
    """`text`: of Serve, without colours."""
    files = FILE_NOTE.findall(text)
    is_final = RANKFLEET_ERROR.search(text) is not None
    return StartFailure(deployment, root_cause(text), is_final, files[-1] if files else "")


def root_cause(message: str) -> str:
    """The error at the end of the tracebacks in a message from Serve; its first line if it has no traceback."""
    text = ANSI.sub("", message)
    if errors := list(RANKFLEET_ERROR.finditer(text)):
        return FILE_NOTE.sub("", text[errors[-1].end() :]).strip()
    if alerts := HAPROXY_ALERT.findall(text):
        return f"HAProxy: {alerts[0].strip()}"
    if others := OTHER_ERROR.findall(text):
        return str(others[-1]).strip()
    lines = [line.strip() for line in (text.partition("Error:\n")[2] or text).splitlines() if line.strip()]
    return lines[0] if lines else "Serve gives no reason"


def lost_and_failing() -> tuple[dict[str, int], list[str]]:
    """What is wrong with a running fleet: the replicas that run of each part that has lost one which is not replaced
    yet, and why replicas cannot start."""
    from ray import serve
    from ray.serve.schema import ReplicaState

    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return {}, []
    lost = {
        part_name(name): state.replica_states.get(ReplicaState.RUNNING, 0)
        for name, state in application.deployments.items()
        if state.status.value != "HEALTHY" and state.status_trigger.value == "HEALTH_CHECK_FAILED"
    }
    return lost, [str(failure) for failure in start_failures(application)]
