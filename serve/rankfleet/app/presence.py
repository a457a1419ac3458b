"""How many replicas of a group take requests, as a router's handle knows it."""

import logging
from typing import Any

from ray.serve.handle import DeploymentHandle

log = logging.getLogger("ray.serve")


def running(handle: DeploymentHandle) -> int | None:
    """None where the handle does not say. It is told of every replica that comes or goes, but has no public way to
    ask: a request, which is the other way to find out, would start a replica of a group that has none."""
    try:
        if not handle.is_initialized:
            handle._init()
        if not handle.running_replicas_populated():
            return None
        router: Any = handle._router
        return len(router._asyncio_router._active_request_router.curr_replicas)
    except Exception as error:
        log.debug("handle of %s: %s", handle.deployment_name, error)
        return None
