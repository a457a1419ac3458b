"""How a deployment turns from one fleet file to the next, without Ray."""

import asyncio

import pytest

from rankfleet.cluster.following import FleetFollower
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError, ConfigError
from rankfleet.core.fingerprint import settings_name
from tests.unit.fakes import fleet

WRONG = {"tiers": "none of this"}


def file(default: str) -> dict[str, object]:
    """A fleet file, told from others by its `default_model`."""
    return fleet(default_model=default).model_dump(mode="json")


async def turns(count: int = 10) -> None:
    """Let the tasks of the event loop go on."""
    for _ in range(count):
        await asyncio.sleep(0)


class Deployment:
    """Serves the fleet files that its follower gives it. Loading waits for `loaded`."""

    def __init__(self) -> None:
        self.serves: list[str] = []
        self.cancelled: list[str] = []
        self.cleaned_up = 0
        self.loaded = asyncio.Event()
        self.loaded.set()
        self.error: Exception | None = None
        self.follower = FleetFollower("group demo", self.load, self.load, self.clean_up)

    async def load(self, config: FleetConfig) -> None:
        try:
            await self.loaded.wait()
        except asyncio.CancelledError:
            self.cancelled.append(config.default_model)
            raise
        if self.error is not None:
            raise self.error
        self.serves.append(config.default_model)

    async def clean_up(self) -> None:
        self.cleaned_up += 1


async def test_the_first_file_is_served_when_reconfigure_returns() -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    assert deployment.serves == ["small"]


async def test_the_first_file_raises_what_is_wrong_and_the_next_one_is_again_the_first() -> None:
    deployment = Deployment()
    with pytest.raises(ConfigError, match="tiers") as wrong:
        await deployment.follower.reconfigure(WRONG)
    assert wrong.value.__notes__ == [f"fleet file {settings_name(WRONG)}"]
    deployment.error = CheckpointError("tier small: no such folder")
    with pytest.raises(CheckpointError, match="no such folder"):
        await deployment.follower.reconfigure(file("small"))
    deployment.error = None
    await deployment.follower.reconfigure(file("small"))
    assert deployment.serves == ["small"]


async def test_a_later_file_is_loaded_beside_what_is_served() -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    deployment.loaded.clear()
    await deployment.follower.reconfigure(file("large"))
    assert deployment.serves == ["small"]
    deployment.loaded.set()
    await turns()
    assert (deployment.serves, deployment.cleaned_up) == (["small", "large"], 1)


async def test_a_wrong_file_keeps_the_old_one_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    await deployment.follower.reconfigure(WRONG)
    await turns()
    assert deployment.serves == ["small"]
    assert deployment.follower.fault.startswith("config: tiers: ")
    assert "group demo keeps the fleet file it has: config: tiers: " in caplog.text
    await deployment.follower.reconfigure(file("small"))
    assert deployment.follower.fault == ""


async def test_a_newer_file_cancels_the_one_that_is_still_loading() -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    deployment.loaded.clear()
    await deployment.follower.reconfigure(file("medium"))
    await turns()
    await deployment.follower.reconfigure(file("large"))
    deployment.loaded.set()
    await turns()
    assert (deployment.cancelled, deployment.serves) == (["medium"], ["small", "large"])
    assert deployment.follower.fault == "", "to be overtaken is no fault"


async def test_a_wrong_file_leaves_the_one_that_is_still_loading() -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    deployment.loaded.clear()
    await deployment.follower.reconfigure(file("large"))
    await deployment.follower.reconfigure(WRONG)
    deployment.loaded.set()
    await turns()
    assert deployment.serves == ["small", "large"]
    assert deployment.follower.fault.startswith("config: tiers: ")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (CheckpointError("tier small: no such folder"), "tier small: no such folder"),
        (MemoryError("out of memory"), "MemoryError: out of memory"),
    ],
    ids=["an error of Rankfleet", "another error"],
)
async def test_an_error_while_loading_is_reported_until_the_next_file(
    error: Exception, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    deployment.error = error
    await deployment.follower.reconfigure(file("large"))
    await turns()
    assert (deployment.serves, deployment.follower.fault) == (["small"], fault)
    assert deployment.cleaned_up == 1, "what was loaded in part is dropped"
    assert fault in caplog.text
    deployment.error = None
    await deployment.follower.reconfigure(file("large"))
    await turns()
    assert (deployment.serves, deployment.follower.fault) == (["small", "large"], "")


async def test_the_newest_wrong_file_is_the_one_that_is_reported() -> None:
    deployment = Deployment()
    await deployment.follower.reconfigure(file("small"))
    deployment.loaded.clear()
    await deployment.follower.reconfigure(file("large"))
    await deployment.follower.reconfigure(WRONG)
    deployment.error = CheckpointError("tier large: no such folder")
    deployment.loaded.set()
    await turns()
    assert deployment.follower.fault.startswith("config: tiers: ")


async def test_a_file_that_is_taken_back_is_served_again() -> None:
    deployment = Deployment()
    for name in ("small", "large", "small"):
        await deployment.follower.reconfigure(file(name))
        await turns()
    assert deployment.serves == ["small", "large", "small"]
