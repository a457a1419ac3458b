"""A change of a fleet that runs: handed to Serve, followed until every router serves it, and taken back where it cannot
work."""

import asyncio
from collections.abc import Callable
from typing import Any

from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.cluster.serve_config import APP_NAME
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.core.errors import RankfleetError

POLL_S = 0.25
SETTLE_S = 1.0
ANSWER_S = 10.0


class ChangeRefused(RankfleetError):
    """The fleet goes on as it was; the message says why."""

    code = "change_refused"


async def routers(number: int) -> list[dict[str, Any]]:
    """What so many different routers say of themselves (`Router.state`); fewer where some do not answer."""
    from ray import serve

    handle, said = serve.get_deployment_handle(ROUTER, APP_NAME), dict[str, dict[str, Any]]()
    for _ in range(8 * number):  # Serve chooses who answers
        try:
            async with asyncio.timeout(ANSWER_S):
                state = await handle.state.remote()
        except Exception:  # it has just gone, or is busy; it is asked again
            continue
        said[state["router"]] = state
        if len(said) == number:
            break
    return list(said.values())


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
    now = await routers(1)
    if not now:
        raise ChangeRefused("no router answers; is the fleet still starting?")
    before = parse_config(now[0]["config"])
    try:
        for step in steps(before, config):
            deployed = fitting(step) if restarts(before, step) else step
            deploy(deployed)
            await asyncio.sleep(SETTLE_S)  # the controller takes the new config up in its next round
            await followed(deployed, is_deployed, progress)
    except (Exception, asyncio.CancelledError) as error:
        progress("taking the change back")
        deploy(fitting(before) if restarts(before, config) else before)
        if not isinstance(error, RankfleetError):
            raise
        raise ChangeRefused(f"{error}\nthe fleet goes on as it was") from error


def steps(before: FleetConfig, config: FleetConfig) -> list[FleetConfig]:
    """What is live goes first: then new processes host what old routers mean, and old processes what new routers do."""
    if not restarts(before, config) or before.groups.keys() != config.groups.keys():
        return [config]
    kept = {
        name: group.model_copy(update={key: getattr(before.groups[name], key) for key in ("cpus", "gpus", "resources")})
        for name, group in config.groups.items()
    }
    return [config.model_copy(update={"groups": kept, "router_cpus": before.router_cpus}), config]


async def followed(config: FleetConfig, is_deployed: Callable[[], bool], progress: Callable[[str], None]) -> None:
    """Returns when every router serves `config`. Raises ChangeRefused where one, or a replica, says that it cannot."""
    wanted = config.model_dump(mode="json")
    while True:
        states = await routers(config.routers) if is_deployed() else []
        if faults := sorted({fault for state in states for fault in state["faults"]}):
            raise ChangeRefused("\n".join(faults))
        served = [state for state in states if state["config"] == wanted and state["next"] is None]
        if len(served) == config.routers:
            return
        if loading := sorted({name for state in states for name in state["next"] or ()}):
            progress(f"waiting for {', '.join(loading)} to load what is new; the fleet goes on as it is")
        await asyncio.sleep(POLL_S)


def restarts(before: FleetConfig, config: FleetConfig) -> bool:
    """Whether a change takes new processes (`cluster/serve_config.py`)."""

    def reserved(fleet: FleetConfig) -> dict[str, Any]:
        groups: dict[str, Any] = {
            name: (group.cpus, group.gpus, group.resources) for name, group in fleet.groups.items()
        }
        return groups | {ROUTER: fleet.router_cpus}

    return reserved(before) != reserved(config)
