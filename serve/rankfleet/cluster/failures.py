"""Why a fleet does not start: the sentence that says what to do, out of what Ray and Serve say."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankfleet.cluster.serve_config import APP_NAME, ROUTER
from rankfleet.core.errors import RankfleetError

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

ANSI = re.compile(r"\x1b\[[0-9;]*m")
OURS = re.compile(r"^rankfleet\.core\.errors\.\w+: ", re.MULTILINE)  # the last line of a traceback of ours
HAPROXY = re.compile(r"^\[ALERT\]\s+\(\d+\) : (.*)$", re.MULTILINE)
OTHERS = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)(?:: .*)?$", re.MULTILINE)


class LaunchError(RankfleetError):
    """The fleet could not be started or reached here; the message says why and what to do."""

    code = "launch"


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
