"""Recorded requests of an experiment, made from lists."""

from typing import Any

import numpy as np

from rankfleet.core.experiments import Experiment
from rankfleet.experiments.requests import Requests


def experiment(weights: dict[str, float], **settings: Any) -> Experiment:
    return Experiment.model_validate({"arms": {arm: {"weight": weight} for arm, weight in weights.items()}, **settings})


def requests(
    arms: list[str], buckets: list[int], names: tuple[str, ...] = ("control", "small"), **columns: Any
) -> Requests:
    """One request for each entry. arms: their names. buckets: of their units; those with the same are one unit.
    columns: in place of the usual: answered by `small` after 10 ms within its budget, no click."""
    n = len(arms)
    unit_ids, units = np.unique([f"{bucket:016x}" for bucket in buckets], return_inverse=True)
    usual: dict[str, Any] = {
        "steps": np.zeros(n, int),
        "at": np.arange(n, dtype=float),
        "routers": np.full(n, "r1"),
        "total_ms": np.full(n, 10.0),
        "failed": np.zeros(n, bool),
        "met": np.ones(n),
        "degraded": np.zeros(n, bool),
        "tiers": np.full(n, "small"),
        "first_clicks": np.full(n, np.inf),
        "conversions": np.zeros(n),
        "labelled": {},
    }
    arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in columns.items()}
    places = np.array([names.index(arm) for arm in arms])
    return Requests(arm_names=names, arms=places, unit_ids=unit_ids, units=units, **usual | arrays)
