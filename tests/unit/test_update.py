"""An update of a running fleet in steps, none of which leaves requests without a model."""

from typing import Any

import pytest

from rankfleet.cluster import update as update_module
from rankfleet.cluster.failures import LaunchError
from rankfleet.cluster.update import UpdateRefused, needs_restart, update, update_steps
from rankfleet.core.config import FleetConfig
from rankfleet.core.fingerprint import settings_name
from tests.unit.fakes import fleet


def demo(**settings: object) -> FleetConfig:
    return fleet(groups={"demo": {"tiers": ["small", "medium", "large"]} | settings})


def test_a_live_change_is_one_step_and_restarts_nothing() -> None:
    for changed in (demo(dtype="float32"), demo(replicas={"min": 2, "max": 3}), fleet(default_model="small")):
        assert not needs_restart(demo(), changed)
        assert update_steps(demo(), changed) == [changed]


def test_reserved_resources_change_after_the_models() -> None:
    changed = demo(dtype="float32", cpus=2.0)
    assert needs_restart(demo(), changed)
    first, last = update_steps(demo(), changed)
    assert (first.groups["demo"].cpus, first.groups["demo"].dtype, last) == (1.0, "float32", changed)


def test_another_set_of_groups_is_one_step_with_a_restart() -> None:
    two = fleet(groups={"a": {"tiers": ["small"]}, "b": {"tiers": ["medium", "large"]}})
    assert needs_restart(fleet(), two)
    assert update_steps(fleet(), two) == [two]


def test_a_group_moves_into_the_router_in_one_step_with_a_restart() -> None:
    moved = demo(in_router=True, cpus=2.0, dtype="float32")
    assert needs_restart(demo(cpus=2.0), demo(in_router=True, cpus=2.0))
    assert update_steps(demo(), moved) == [moved]
    assert update_steps(moved, demo(replicas={"min": 1, "max": 2})) == [demo(replicas={"min": 1, "max": 2})]


def test_the_order_of_groups_does_not_matter() -> None:
    one = fleet(groups={"a": {"tiers": ["small"]}, "b": {"tiers": ["medium", "large"]}})
    other = fleet(groups={"b": {"tiers": ["medium", "large"]}, "a": {"tiers": ["small"]}})
    assert not needs_restart(one, other)


class RunningFleet:
    """Two routers that serve what is deployed, after being asked `rounds` times."""

    def __init__(self, config: FleetConfig, rounds: int = 3) -> None:
        self.serves = self.deployed = config
        self.deployments: list[FleetConfig] = []
        self.said: list[str] = []
        self.faults: list[str] = []
        self.rounds = self.left = rounds
        self.cannot_deploy = ""
        self.behind = 0  # rounds in which Serve has not given routers what is deployed, but a file that was wrong

    def deploy(self, config: FleetConfig) -> None:
        self.deployments.append(config)
        self.deployed, self.left = config, self.rounds

    def is_deployed(self, config: FleetConfig) -> bool:
        if self.cannot_deploy and self.deployed is not self.serves:
            raise LaunchError(self.cannot_deploy)
        return True

    async def ask(self, number: int) -> list[dict[str, Any]]:
        is_loading = self.deployed != self.serves
        faults, newest = self.faults if is_loading else [], settings_name(self.deployed.model_dump(mode="json"))
        if self.behind:
            self.behind -= 1
            is_loading, faults, newest = False, ["config: tiers: wrong"], settings_name({"tiers": "wrong"})
        if is_loading and not faults:
            self.left -= 1
            if self.left == 0:
                self.serves = self.deployed
        state = {"config": self.serves.model_dump(mode="json"), "next": ["demo"] if is_loading else None}
        return [state | {"router": f"router {i}", "newest": newest, "faults": faults} for i in range(number)]

    async def update(self, config: FleetConfig) -> None:
        await update(config, self.deploy, self.is_deployed, self.said.append, without_surge, self.ask)


def without_surge(config: FleetConfig) -> FleetConfig:
    """As on a computer that has no room for new replicas beside the old ones."""
    return config.model_copy(update={"updates": config.updates.model_copy(update={"surge_percent": 0})})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_module, "SETTLE_S", 0.0)
    monkeypatch.setattr(update_module, "POLL_S", 0.0)


async def test_an_update_returns_when_every_router_serves_it() -> None:
    running, changed = RunningFleet(fleet(routers=2)), fleet(routers=2, default_model="small")
    await running.update(changed)
    assert (running.serves, running.deployments) == (changed, [changed])
    assert "waiting for demo to load what is new; the fleet goes on meanwhile" in running.said


async def test_an_update_with_a_restart_goes_in_two_steps_and_makes_room_for_the_second() -> None:
    running, changed = RunningFleet(demo()), demo(dtype="float32", cpus=2.0)
    await running.update(changed)
    live, restart = running.deployments
    assert (live.groups["demo"].dtype, live.groups["demo"].cpus, live.updates.surge_percent) == ("float32", 1.0, 25)
    assert (restart.groups["demo"].cpus, restart.updates.surge_percent) == (2.0, 0)


async def test_an_update_that_a_router_or_replica_refuses_is_taken_back() -> None:
    before = demo()
    running = RunningFleet(before)
    running.faults = ["tier small: no such folder"]
    with pytest.raises(UpdateRefused, match=r"^tier small: no such folder\nthe fleet goes on as it was$"):
        await running.update(demo(dtype="float32"))
    assert running.deployments[1:] == [before]


@pytest.mark.parametrize("changed", [demo(), demo(dtype="float32")], ids=["the file that is served", "another"])
async def test_what_routers_said_of_a_file_before_is_not_taken_for_a_refusal_of_this_one(changed: FleetConfig) -> None:
    running = RunningFleet(demo())
    running.behind = 4  # when asked for the fleet that runs, and three times after `deploy`
    await running.update(changed)
    assert (running.serves, running.deployments, running.behind) == (changed, [changed], 0)


async def test_an_update_that_serve_cannot_deploy_is_taken_back_with_room_for_the_old_processes() -> None:
    before = demo()
    running = RunningFleet(before)
    running.cannot_deploy = "group demo does not start: no such folder"
    with pytest.raises(UpdateRefused, match="group demo does not start"):
        await running.update(demo(cpus=2.0))
    assert running.deployments[-1] == without_surge(before)


async def test_a_fleet_whose_routers_do_not_answer_is_not_updated() -> None:
    running = RunningFleet(demo())

    async def nobody(number: int) -> list[dict[str, Any]]:
        return []

    with pytest.raises(UpdateRefused, match="no router answers; is the fleet still starting"):
        await update(demo(cpus=2.0), running.deploy, running.is_deployed, print, without_surge, nobody)
    assert running.deployments == []


async def test_an_update_does_not_open_a_fleet_to_anyone() -> None:
    with_keys = demo().model_copy(update={"keys": "/keys"})
    running = RunningFleet(with_keys)
    await running.update(demo(dtype="float32"))
    assert (running.serves.keys, running.serves.groups["demo"].dtype) == ("/keys", "float32")
    await running.update(demo().model_copy(update={"keys": "/others"}))
    assert running.serves.keys == "/others"
