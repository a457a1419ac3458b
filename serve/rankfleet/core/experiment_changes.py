"""Changes of an experiment in a fleet that runs, made to its fleet file as plain data."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError, quote
from rankfleet.core.experiments import Experiment, Step
from rankfleet.core.fleet_file import parse_config


def with_weights(config: FleetConfig, name: str, weights: Mapping[str, float], now: datetime) -> FleetConfig:
    """The fleet with these weights in force from now on, as a step of the schedule, which moves no unit that need not
    move, however many arms there are. Later steps are dropped: they would change the weights again.

    weights: by arm; others keep theirs. Raises ConfigError.
    """
    experiment = experiment_of(config, name, *weights)
    passed = [step for step in experiment.schedule if step.at < now]
    step = Step.model_construct(at=now, weights=dict(weights))  # `changed` checks it
    return changed(config, name, schedule=[*passed, step])


def with_stop(config: FleetConfig, name: str, arm: str | None) -> FleetConfig:
    """The fleet with an experiment stopped, or one arm of it. Raises ConfigError."""
    if arm is None:
        experiment_of(config, name)
        return changed(config, name, stopped=True)
    experiment = experiment_of(config, name, arm)
    settings = experiment.arms[arm].model_copy(update={"stopped": True})
    return changed(config, name, arms=experiment.arms | {arm: settings})


def experiment_of(config: FleetConfig, name: str, *arms: str) -> Experiment:
    """The experiment of this name, which has these arms. Raises ConfigError."""
    if (experiment := config.experiments.get(name)) is None:
        raise ConfigError(
            f"there is no experiment {quote(name)}; this fleet has {', '.join(config.experiments) or 'none'}"
        )
    for arm in arms:
        if arm not in experiment.arms:
            raise ConfigError(f"experiment {name} has no arm {quote(arm)}; it has {', '.join(experiment.arms)}")
    return experiment


def changed(config: FleetConfig, name: str, **keys: Any) -> FleetConfig:
    """The fleet with these keys of an experiment changed. Raises ConfigError for what is no fleet file."""
    experiment = config.experiments[name].model_copy(update=keys)
    return parse_config(
        config.model_copy(update={"experiments": config.experiments | {name: experiment}}).model_dump(mode="json"),
        "the fleet",
    )
