"""An update of a running fleet in steps, none of which leaves requests without a model."""

from rankfleet.cluster.update import needs_restart, update_steps
from rankfleet.core.config import FleetConfig
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


def test_the_order_of_groups_does_not_matter() -> None:
    one = fleet(groups={"a": {"tiers": ["small"]}, "b": {"tiers": ["medium", "large"]}})
    other = fleet(groups={"b": {"tiers": ["medium", "large"]}, "a": {"tiers": ["small"]}})
    assert not needs_restart(one, other)
