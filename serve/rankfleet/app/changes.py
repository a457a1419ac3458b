"""A change of a fleet that runs: handed to Serve, followed until every router serves it, and taken back where it cannot
work."""

import asyncio
from collections.abc import Callable
from typing import Any

from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.core.deployments import ROUTER
from rankfleet.core.errors import RankfleetError
from rankfleet.core.serveconfig import APP_NAME

POLL_S = 0.25
SETTLE_S = 1.0
ANSWER_S = 10.0


class ChangeRefused(RankfleetError):
    """The fleet goes on as it was; the message says why."""

    code = "change_refused"


async def states(deployment: str, replicas: int) -> list[dict[str, Any]]:
    """What replicas of a deployment say of themselves (`Router.state`, `ReplicaGroup.state`): twice as many answers as
    there are replicas, since Serve chooses who answers."""
    from ray import serve

    handle = serve.get_deployment_handle(deployment, APP_NAME)
    async with asyncio.timeout(ANSWER_S):
        return [await handle.state.remote() for _ in range(2 * replicas)]


async def change(
    config: FleetConfig,
    deploy: Callable[[FleetConfig], None],
    is_deployed: Callable[[], bool],
    progress: Callable[[str], None],
    fitting: Callable[[FleetConfig], FleetConfig],
) -> None:
    """From the fleet that runs to `config`, until every router serves it.

    deploy: hands a fleet to Serve; is_deployed: whether Serve has done its part, raises where it cannot; fitting: a
    fleet such that there is room for new processes, where the change takes any.

    Raises ChangeRefused where a router or a replica says that it cannot follow, or Serve does: then the fleet goes on
    as it was.
    """
    before = parse_config((await states(ROUTER, 1))[0]["config"])
    if restarts(before, config):
        config = fitting(config)
    deploy(config)
    await asyncio.sleep(SETTLE_S)  # the controller takes the new config up in its next round
    try:
        await followed(config, is_deployed, progress)
    except RankfleetError as error:
        progress("taking the change back")
        deploy(before)
        raise ChangeRefused(f"{error}\nthe fleet goes on as it was") from error


async def followed(config: FleetConfig, is_deployed: Callable[[], bool], progress: Callable[[str], None]) -> None:
    """Returns when every router serves `config`. Raises ChangeRefused where one, or a replica, says that it cannot."""
    wanted = config.model_dump(mode="json")
    while True:
        deployed = is_deployed()
        routers = await states(ROUTER, config.routers) if deployed else []
        faults = {state["fault"] for state in routers if state["fault"]}
        for name, group in config.groups.items():
            if deployed and group.replicas.min > 0:
                faults |= {state["fault"] for state in await states(name, group.replicas.min) if state["fault"]}
        if faults:
            raise ChangeRefused("\n".join(sorted(faults)))
        if deployed and all(state["config"] == wanted and state["next"] is None for state in routers):
            return
        if loading := sorted({name for state in routers for name in state["next"] or ()}):
            progress(f"waiting for {', '.join(loading)} to load what is new; the fleet goes on as it is")
        await asyncio.sleep(POLL_S)


def restarts(before: FleetConfig, config: FleetConfig) -> bool:
    """Whether a change takes new processes (`core/serveconfig.py`)."""

    def reserved(fleet: FleetConfig) -> dict[str, Any]:
        groups: dict[str, Any] = {
            name: (group.cpus, group.gpus, group.resources) for name, group in fleet.groups.items()
        }
        return groups | {ROUTER: fleet.router_cpus}

    return reserved(before) != reserved(config)
