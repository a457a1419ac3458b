"""The fleet that the fault benches start: what it runs, and how it can be broken."""

from pathlib import Path
from typing import Any, Protocol

from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config, read_config

DEMO = Path(__file__).parents[1] / "configs/demo.yaml"
STRICT = "strict"  # the SLO class that refuses infeasible requests


class BreakableFleet(Protocol):
    """A fleet that can be broken, such as `rankfleet.bench.local_cluster.LocalCluster`."""

    url: str
    config: FleetConfig

    def kill(self, deployment: str) -> str: ...
    def hang(self, deployment: str) -> str: ...
    def release(self) -> str: ...
    def remove_node(self) -> str: ...
    def add_node(self) -> str: ...
    def deploy(self, config: FleetConfig) -> str: ...
    def settle(self) -> None: ...
    def processes(self) -> dict[str, list[int]]: ...


def reserving_more(config: FleetConfig) -> FleetConfig:
    """The same fleet with a little more CPU reserved for every process, a change that Serve makes by replacing them."""
    settings = config.model_dump(mode="json")
    settings["router_cpus"] += 0.01
    for group in settings["groups"].values():
        group["cpus"] += 0.01
    return parse_config(settings)


def fault_test_fleet(profile: str | None) -> FleetConfig:
    """The demo tiers on three replicas, with two routers, so that one of each may die. profile: file of this device."""
    return parse_config(
        {
            "tiers": demo_tiers(),
            "groups": {
                "demo": {
                    "tiers": ["small", "medium", "large"],
                    "replicas": {"min": 3, "max": 3},
                    "cpus": 0.5,
                    "gpus": 0.25,
                }
            },
            "routers": 2,
            "profile": profile,
            "slo_classes": {STRICT: {"slo_ms": None, "when_none_fits": "refuse"}},
        }
    )


def demo_tiers() -> dict[str, Any]:
    """The tiers of the shipped demo fleet, as a fleet file has them."""
    tiers: dict[str, Any] = read_config(DEMO).model_dump(mode="json")["tiers"]
    return tiers
