"""Updates a running fleet to another fleet file: hands it to Serve, waits until every router serves it, and takes it
back if that fails."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rankfleet.cluster.deploy import POLL_S, deploy, is_running
from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.cluster.environment import prepare_environment
from rankfleet.cluster.failures import LaunchError, as_launch_error, root_cause
from rankfleet.cluster.preflight import check_files, check_fits, room_to_surge
from rankfleet.cluster.running_fleets import one_at_a_time, pick_fleet, running_fleets
from rankfleet.cluster.serve_config import APP_NAME
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import RankfleetError
from rankfleet.core.fingerprint import settings_name
from rankfleet.core.fleet_file import parse_config

SETTLE_S = 1.0  # after which Serve's controller has taken a new config up
ROUTER_TIMEOUT_S = 10.0


class UpdateRefused(RankfleetError, code="update_refused"):
    """A fleet file cannot be served. The message says why; the fleet goes on with the file it has."""


def apply(config: FleetConfig, progress: Callable[[str], None], port: int | None = None) -> None:
    """Update the fleet that `rankfleet serve` runs on this computer, and return when every router serves `config`.

    `port`: of the fleet, if several run. Raises CheckpointError and ConfigError for what is wrong with `config`,
    LaunchError if no fleet runs or it does not answer, and UpdateRefused if the fleet cannot serve `config`; it then
    goes on as it was.
    """
    check_fits(config)
    check_files(config, progress)

    def with_room(changed: FleetConfig) -> FleetConfig:
        """The same fleet; without surge if this computer has no cores for new replicas beside the old ones."""
        if not changed.updates.surge_percent or room_to_surge(changed):
            return changed
        progress("no cores are free for new replicas beside the old ones, so the old ones stop first")
        return changed.model_copy(update={"updates": changed.updates.model_copy(update={"surge_percent": 0})})

    with connected(progress, port):
        # On an event loop, because handles then work on the main one (`LOW_LATENCY`).
        asyncio.run(update(config, partial(deploy, is_update=True), partial(is_running, progress), progress, with_room))


def change_live(
    change: Callable[[FleetConfig], FleetConfig], progress: Callable[[str], None], port: int | None = None
) -> None:
    """Change live settings of the fleet that `rankfleet serve` runs on this computer, and return when every router
    serves them.

    `change`: from the fleet that runs to the one that shall. `port`: as in `apply`. Raises as `apply` does, and what
    `change` raises.
    """

    async def changed() -> None:
        config = change(await running_config())
        await update(
            config, partial(deploy, is_update=True), partial(is_running, progress), progress, lambda same: same
        )

    with connected(progress, port):
        asyncio.run(changed())


@contextmanager
def connected(progress: Callable[[str], None], port: int | None) -> Iterator[None]:
    """Be part of the Ray cluster of a fleet on this computer, as the only one that changes it. An update that another
    one overtakes would wait for ever, and take both back when it is stopped. Raises LaunchError if no fleet runs or it
    does not answer."""
    fleet = pick_fleet(running_fleets(), port)
    with as_launch_error("the update"):
        prepare_environment()
    if fleet.token and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = fleet.token
    import ray
    from ray import serve  # noqa: F401  (importing it sets its log level, which is changed below)

    progress(f"updating the fleet at {fleet.address}")
    try:
        ray.init(address=fleet.cluster, logging_level=logging.ERROR, log_to_driver=False, namespace="serve")
    except Exception as error:  # Ray raises many classes
        raise LaunchError(
            f"the fleet at {fleet.address} does not answer ({root_cause(str(error))}); if RAY_AUTH_TOKEN was set for "
            "`rankfleet serve`, set it to the same value"
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        with one_at_a_time(f"updating-{fleet.port}", "another update of this fleet", progress):
            yield
    finally:
        ray.shutdown()


async def router_states(number: int) -> list[dict[str, Any]]:
    """`Router.state` of this many different routers; of fewer if some do not answer."""
    from ray import serve

    handle, states = serve.get_deployment_handle(ROUTER, APP_NAME), dict[str, dict[str, Any]]()
    for _ in range(8 * number):  # Serve chooses which router answers
        try:
            async with asyncio.timeout(ROUTER_TIMEOUT_S):
                state = await handle.state.remote()
        except Exception:  # it has just gone, or is busy; it is asked again
            continue
        states[state["router"]] = state
        if len(states) == number:
            break
    return list(states.values())


async def running_config(
    ask_routers: Callable[[int], Awaitable[list[dict[str, Any]]]] = router_states,
) -> FleetConfig:
    """The fleet that runs. Raises UpdateRefused if no router answers."""
    if not (states := await ask_routers(1)):
        raise UpdateRefused("no router answers; is the fleet still starting?")
    return parse_config(states[0]["config"])


async def update(
    config: FleetConfig,
    deploy_fleet: Callable[[FleetConfig], None],
    is_deployed: Callable[[FleetConfig], bool],
    progress: Callable[[str], None],
    with_room: Callable[[FleetConfig], FleetConfig],
    ask_routers: Callable[[int], Awaitable[list[dict[str, Any]]]] = router_states,
) -> None:
    """Go from the running fleet to `config`, and return when every router serves it.

    `deploy_fleet`: hands a fleet to Serve.
    `is_deployed`: whether Serve has done its part for the fleet handed to it last; raises if it cannot.
    `with_room`: the same fleet with options such that there is room for new processes, for steps that start any.
    `ask_routers`: what so many routers serve.

    Raises UpdateRefused if a router, a replica or Serve cannot follow. The fleet then goes back to what it was.
    """
    before = await running_config(ask_routers)
    if config.keys is None:  # as given to `rankfleet serve --keys`; an update does not open a fleet to anyone
        config = config.model_copy(update={"keys": before.keys})
    try:
        for step in update_steps(before, config):
            deployed = with_room(step) if needs_restart(before, step) else step
            deploy_fleet(deployed)
            await asyncio.sleep(SETTLE_S)
            await wait_until_served(deployed, is_deployed, progress, ask_routers)
    except (Exception, asyncio.CancelledError) as error:
        progress("going back to the fleet as it was")
        deploy_fleet(with_room(before) if needs_restart(before, config) else before)
        if not isinstance(error, RankfleetError):
            raise
        raise UpdateRefused(f"{error}\nthe fleet goes on as it was") from error


def update_steps(before: FleetConfig, config: FleetConfig) -> list[FleetConfig]:
    """The fleets to deploy one after the other. What can change live goes first, so that when processes are restarted
    afterwards, old and new ones already agree on the models."""
    if not needs_restart(before, config) or places(before) != places(config):
        return [config]
    reserved_as_before = {
        name: group.model_copy(update={key: getattr(before.groups[name], key) for key in ("cpus", "gpus", "resources")})
        for name, group in config.groups.items()
    }
    live = config.model_copy(update={"groups": reserved_as_before, "router_cpus": before.router_cpus})
    return [live, config]


def needs_restart(before: FleetConfig, config: FleetConfig) -> bool:
    """Whether a change starts new processes (`cluster/serve_config.py`): another set of groups, a group that moves into
    the router or out of it, or other resources."""

    def reserved(fleet: FleetConfig) -> dict[str, Any]:
        groups: dict[str, Any] = {
            name: (group.cpus, group.gpus, group.resources) for name, group in fleet.groups.items()
        }
        return groups | {ROUTER: fleet.router_cpus}

    return reserved(before) != reserved(config) or places(before) != places(config)


def places(fleet: FleetConfig) -> dict[str, bool]:
    """The groups, and whether each is hosted in the router."""
    return {name: group.in_router for name, group in fleet.groups.items()}


async def wait_until_served(
    config: FleetConfig,
    is_deployed: Callable[[FleetConfig], bool],
    progress: Callable[[str], None],
    ask_routers: Callable[[int], Awaitable[list[dict[str, Any]]]],
) -> None:
    """Return when every router serves `config`. Raises UpdateRefused if a router or a replica says that it cannot."""
    wanted = config.model_dump(mode="json")
    name = settings_name(wanted)
    while True:
        states = await ask_routers(config.routers) if is_deployed(config) else []
        # What a router says before Serve has given it this file is about another one, which may have been wrong.
        states = [state for state in states if state["newest"] == name]
        if faults := sorted({fault for state in states for fault in state["faults"]}):
            raise UpdateRefused("\n".join(faults))
        done = [state for state in states if state["config"] == wanted and state["next"] is None]
        if len(done) == config.routers:
            return
        if loading := sorted({name for state in states for name in state["next"] or ()}):
            progress(f"waiting for {', '.join(loading)} to load what is new; the fleet goes on meanwhile")
        await asyncio.sleep(POLL_S)
