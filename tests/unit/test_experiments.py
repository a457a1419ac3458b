from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.errors import ConfigError
from rankfleet.core.experiments import Arm, Experiment
from rankfleet.core.fleet_file import parse_config
from rankfleet.core.messages import RerankRequest
from rankfleet.router.experiments import Split, Splits, bucket, bucket_counts, bucket_tables, unit_hash
from rankfleet.router.resolve import target_of
from tests.unit.fakes import DAWN_S, fleet

TIERS = ("small", "large")


def experiment(weights: dict[str, float], **settings: Any) -> Experiment:
    arms = {arm: {"weight": weight} for arm, weight in weights.items()}
    return Experiment.model_validate({"arms": arms, **settings})


def assign(
    settings: dict[str, Any], request: RerankRequest, unix_s: float = 0.0, **live: Any
) -> tuple[str, str] | None:
    """(arm, hash of the unit) of a request in one experiment."""
    every = LiveSettings.model_validate({"experiments": {"exp": settings}, **live})
    found = Splits(every, TIERS).assign(request, unix_s)
    return found and (found.arm, found.unit)


def request(**fields: Any) -> RerankRequest:
    return RerankRequest("q", ["d"], **fields)


ONE_ARM: dict[str, Any] = {"arms": {"a": {"weight": 1}}}


def test_buckets_never_change() -> None:
    # The first 16 hex digits of `printf 'exp\000%s\000%s' 1 user-1 | sha256sum`, and the same modulo 10,000.
    assert unit_hash("exp", "1", "user-1") == "4c2e42fbae4ea3d4"
    assert bucket("4c2e42fbae4ea3d4") == 7156
    assert bucket(unit_hash("exp", "1", "user-2")) == 3927


def test_the_unit_decides_the_arm() -> None:
    split = Split("exp", experiment({"a": 71.56, "b": 28.44}))
    assert (split.assign("user-1", 0.0).arm, split.assign("user-2", 0.0).arm) == ("b", "a")  # 7156 is the first of b


def test_another_seed_assigns_anew() -> None:
    one, other = (Split("exp", experiment({"a": 1, "b": 1}, seed=seed)) for seed in ("1", "2"))
    same = sum(one.assign(f"u{i}", 0.0).arm == other.assign(f"u{i}", 0.0).arm for i in range(2000))
    assert 0.4 < same / 2000 < 0.6


def test_arms_get_their_share_of_buckets() -> None:
    assert bucket_counts({"a": 30, "b": 70}) == [3000, 7000]
    assert bucket_counts({"a": 0, "b": 5}) == [0, 10_000]
    assert bucket_counts({"a": 1, "b": 1, "c": 1}) == [3334, 3333, 3333]  # 3333⅓ each, the first gets what is left


def test_units_are_shared_within_the_error_of_sampling() -> None:
    table = bucket_tables(experiment({"a": 10, "b": 20, "c": 70}))[0]
    counts = Counter(table[bucket(unit_hash("exp", "1", f"user-{i}"))] for i in range(200_000))
    for arm, share in enumerate((0.1, 0.2, 0.7)):
        assert abs(counts[arm] / 200_000 - share) < 4 * (share * (1 - share) / 200_000) ** 0.5


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"a": 90, "b": 10}, {"a": 80, "b": 20}, {(0, 1): 1000}),
        ({"a": 50, "b": 25, "c": 25}, {"a": 40, "b": 35, "c": 25}, {(0, 1): 1000}),
        ({"a": 50, "b": 25, "c": 25}, {"a": 60, "b": 40, "c": 0}, {(2, 0): 1000, (2, 1): 1500}),
        ({"a": 1, "b": 1}, {"a": 3, "b": 3}, {}),
    ],
)
def test_a_step_moves_as_few_units_as_possible(
    before: dict[str, float], after: dict[str, float], moved: dict[tuple[int, int], int]
) -> None:
    first, then = bucket_tables(experiment(before, schedule=[{"at": "2026-12-01T00:00:00Z", "weights": after}]))
    changed = first != then
    assert Counter(zip(first[changed].tolist(), then[changed].tolist(), strict=True)) == moved


def test_a_ramp_keeps_the_units_it_has_and_follows_the_clock() -> None:
    steps = [
        {"at": "2026-12-01T00:00:00Z", "weights": {"new": 10, "old": 90}},
        {"at": "2026-12-01T01:00:00+01:00", "weights": {"new": 50, "old": 50}},
    ]
    with pytest.raises(ValueError, match=r"schedule.1: its time is not after"):
        experiment({"old": 99, "new": 1}, schedule=steps)
    steps[1]["at"] = "2026-12-02T00:00:00Z"
    ramp = experiment({"old": 99, "new": 1}, schedule=steps)
    tables = bucket_tables(ramp)
    assert [int(np.count_nonzero(table == 1)) for table in tables] == [100, 1000, 5000]
    assert all((later[earlier == 1] == 1).all() for earlier, later in pairwise(tables))
    split = Split("exp", ramp)
    unit = next(
        unit
        for i in range(9999)
        if tables[1][place := bucket(unit_hash("exp", "1", unit := f"u{i}"))] > tables[0][place]
    )
    before, after = split.assign(unit, DAWN_S - 0.001), split.assign(unit, DAWN_S)
    assert [(before.arm, before.step), (after.arm, after.step)] == [("old", 0), ("new", 1)]


def test_an_arm_that_a_step_leaves_out_keeps_its_weight() -> None:
    ramp = experiment({"old": 3, "new": 1}, schedule=[{"at": "2026-12-01T00:00:00Z", "weights": {"new": 3}}])
    assert [dict(weights) for weights in ramp.all_weights()] == [{"old": 3, "new": 1}, {"old": 3, "new": 3}]


@pytest.mark.parametrize(
    ("settings", "fields", "unit"),
    [
        ({}, {"user": "u", "session": "s"}, "u"),
        ({"unit": "session"}, {"user": "u", "session": "s"}, "s"),
        ({"unit": "key"}, {"tenant": "shop"}, "shop"),
        ({"tenants": ["blog", "shop"]}, {"user": "u", "tenant": "shop"}, "u"),
        ({"unit": "query"}, {}, "q"),
        ({"unit": "query"}, {"queries": ("q", "r")}, "q\nr"),
        ({"unit": "header", "header": "x-device"}, {"headers": {"x-device": "d7"}}, "d7"),
    ],
)
def test_the_unit_is_what_the_file_says(settings: dict[str, Any], fields: dict[str, Any], unit: str) -> None:
    assert assign(ONE_ARM | settings, request(**fields)) == ("a", unit_hash("exp", "1", unit))


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, {"session": "s"}),
        ({}, {"user": ""}),
        ({"stopped": True}, {"user": "u"}),
        ({"tenants": ["blog"]}, {"user": "u", "tenant": "shop"}),
        ({"tenants": ["blog"]}, {"user": "u"}),
        ({}, {"user": "u", "model": "small"}),
        ({"arms": {"a": {"weight": 1}, "b": {"weight": 0, "slo_class": "fast"}}}, {"user": "u", "slo_ms": 20.0}),
        ({"arms": {"a": {"weight": 1}, "b": {"weight": 0, "slo_class": "fast"}}}, {"user": "u", "model": "fast"}),
        ({"arms": {"a": {"weight": 1}, "b": {"weight": 0, "fusion_weight": 0}}}, {"user": "u", "candidates": "ranked"}),
    ],
    ids=[
        "no user",
        "empty user",
        "stopped",
        "another tenant",
        "no tenant",
        "names a tier",
        "names a budget",
        "names a class",
        "names the order",
    ],
)
def test_who_takes_no_part(settings: dict[str, Any], fields: dict[str, Any]) -> None:
    assert assign(ONE_ARM | settings, request(**fields), slo_classes={"fast": {"slo_ms": 50}}) is None


def test_a_budget_is_no_choice_where_no_arm_sets_a_class() -> None:
    assert assign(ONE_ARM, request(user="u", slo_ms=20.0, candidates="ranked")) is not None


def three_tiers(**settings: Any) -> FleetConfig:
    return fleet(slo_classes={"fast": {"slo_ms": 20}}, default_slo_class=None, **settings)


@pytest.mark.parametrize(
    ("arm", "tiers", "pinned", "budget_ms"),
    [
        ({}, ("small", "medium", "large"), None, None),
        ({"model": "large"}, ("large",), "arm", None),
        ({"model": "auto"}, ("small", "medium", "large"), None, None),
        ({"tiers": ["small", "medium"]}, ("small", "medium"), None, None),
        ({"slo_class": "fast"}, ("small", "medium", "large"), None, 20),
    ],
)
def test_what_an_arm_changes(
    arm: dict[str, Any], tiers: tuple[str, ...], pinned: str | None, budget_ms: float | None
) -> None:
    config = three_tiers(experiments={"exp": {"arms": {"a": {"weight": 1, **arm}}}})
    target = target_of(request(), config.live, config.tiers, config.experiments["exp"].arms["a"])
    assert (target.tiers, target.pinned, target.budget_ms, target.cascade) == (tiers, pinned, budget_ms, None)


def test_an_arm_may_fix_a_cascade() -> None:
    arm = {"weight": 1, "cascade": {"first": "small", "second": "large", "candidates": 20}}
    config = three_tiers(experiments={"exp": {"arms": {"a": arm}}})
    target = target_of(request(), config.live, config.tiers, config.experiments["exp"].arms["a"])
    assert (target.tiers, target.pinned, target.cascade) == (("small", "large"), "arm", ("small", "large", 20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": {"a": {"weight": 0}}}, "experiments.exp: all weights are 0; give at least one arm some weight"),
        (
            {"arms": {"a": {"weight": 1, "model": "small", "tiers": ["large"]}}},
            "experiments.exp.arms.a: model and tiers both say which tiers answer; keep one of them",
        ),
        ({"arms": {"a": {"weight": 1, "tiers": ["big"]}}}, "experiments.exp.arms.a: no tier is named 'big'"),
        ({"arms": {"a": {"weight": 1, "slo_class": "x"}}}, "experiments.exp.arms.a: slo_class 'x' is not under"),
        (
            {"arms": {"a": {"weight": 1, "cascade": {"first": "small", "second": "small", "candidates": 5}}}},
            "experiments.exp.arms.a.cascade: first and second are both 'small'; name two tiers",
        ),
        (ONE_ARM | {"unit": "header"}, "experiments.exp: `unit: header` and `header` (its name) go together"),
        (
            ONE_ARM | {"schedule": [{"at": "2026-12-01T00:00:00Z", "weights": {"b": 1}}]},
            "experiments.exp: schedule.0: b is none of a",
        ),
        (
            ONE_ARM | {"schedule": [{"at": "2026-12-01T00:00:00Z", "weights": {"a": 0}}]},
            "experiments.exp: schedule.0: all weights are 0",
        ),
        (
            ONE_ARM | {"schedule": [{"at": "2026-12-01T00:00:00", "weights": {"a": 1}}]},
            "experiments.exp.schedule.0.at: Input should have timezone info",
        ),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    plain = three_tiers().model_dump(mode="json")
    with pytest.raises(ConfigError) as caught:
        parse_config(plain | {"experiments": {"exp": settings}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arm", "summary"),
    [
        ({}, "no change"),
        ({"model": "small", "slo_class": "fast"}, "small, class fast"),
        ({"tiers": ["small", "large"], "min_quality": 0.5}, "small or large, quality ≥ 0.5"),
        ({"cascade": {"first": "small", "second": "large", "candidates": 20}}, "small, then large on 20"),
        ({"fusion_weight": 0}, "fusion weight 0"),
    ],
)
def test_an_arm_says_what_it_changes(arm: dict[str, Any], summary: str) -> None:
    assert Arm.model_validate({"weight": 1, **arm}).summary == summary


def test_the_control_is_named_or_called_so_or_first() -> None:
    assert experiment({"b": 1, "control": 1}).control_arm == "control"
    assert experiment({"b": 1, "c": 1}).control_arm == "b"
    assert experiment({"b": 1, "control": 1}, control="b").control_arm == "b"
    with pytest.raises(ValueError, match="control: 'x' is none of b, c"):
        experiment({"b": 1, "c": 1}, control="x")


def test_margins_are_of_measures_that_exist() -> None:
    assert experiment({"a": 1}, margins={"ctr@5": 0.01, "latency_ms": 3}).margins == {"ctr@5": 0.01, "latency_ms": 3}
    for wrong in ({"clicks": 0.01}, {"ctr@0": 0.01}, {"attainment": 0}):
        with pytest.raises(ValueError, match="margins"):
            experiment({"a": 1}, margins=wrong)
