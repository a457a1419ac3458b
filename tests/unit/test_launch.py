"""What can be known before a fleet is started or changed on this computer."""

import os

import pytest

from rankfleet.app.launch import LaunchError, check_fits, reserved, room_to_surge
from tests.unit.fakes import fleet

TIERS = {"tiers": ["small", "medium", "large"]}


def test_cores_are_counted_for_the_replicas_to_start_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config = fleet(groups={"demo": TIERS | {"cpus": 1.5, "replicas": {"min": 2, "max": 9}}}, routers=2)
    assert reserved(config) == {"CPU cores": 2 * 0.5 + 2 * 1.5, "GPUs": 0.0}
    check_fits(config)
    with pytest.raises(LaunchError, match=r"reserves 5\.5 CPU cores and the machine has 4"):
        check_fits(config.model_copy(update={"routers": 5}))


@pytest.mark.parametrize(("cores", "room"), [(2, True), (1, False)])
def test_new_replicas_need_room_beside_the_old_ones(cores: int, room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    # One router and one replica of half a core each, and each of them twice during an update.
    assert room_to_surge(fleet(groups={"demo": TIERS | {"cpus": 0.5}})) is room
