"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError, UnknownModel
from rankfleet.core.fleet_file import read_config
from rankfleet.core.sections import Tier

SHIPPED = Path(__file__).parent.parent / "configs"

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        help="fleet file, or name of a shipped one: demo, laptop, gpu, fleet, production, sim-fleet",
    ),
]


def load_config(config: str) -> FleetConfig:
    """The fleet file at this path, or the shipped one of this name. Raises ConfigError."""
    path = Path(config)
    shipped = SHIPPED / f"{config}.yaml"
    if not path.exists():
        if shipped.exists():
            path = shipped
        elif path.suffix not in (".yaml", ".yml"):
            names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
            raise ConfigError(f"there is no file {config}, and no shipped fleet file of that name; shipped are {names}")
    return read_config(path)


def pick_tier(fleet: FleetConfig, tier: str) -> Tier:
    """The tier of this name. Raises UnknownModel, which lists the names there are."""
    if tier not in fleet.tiers:
        raise UnknownModel(f"there is no tier {tier!r}; this fleet has {', '.join(fleet.tiers)}")
    return fleet.tiers[tier]
