"""The section of a fleet file on autoscaling."""

from pydantic import Field

from rankfleet.core.sections import Name, Section


class GroupScaling(Section):
    """Settings of one group that differ from those of the fleet."""

    utilisation: float | None = Field(None, gt=0, le=10, description="in place of the fleet's `utilisation`")
    drain_s: float | None = Field(None, gt=0, description="in place of the fleet's `drain_s`")


class Autoscaling(Section):
    """How many replicas each group gets. Demand and backlog are in seconds of work at the tiers of the unloaded plan.

    Changes take effect without a restart. docs/autoscaling.md has the formula.
    """

    utilisation: float = Field(
        0.7,
        gt=0,
        le=10,
        description="share of a replica's time that demand should take; above 1 the fleet relies on smaller tiers",
    )
    drain_s: float | None = Field(
        None, gt=0, description="time in which a backlog should be worked off; null: derived by `drain_share`"
    )
    drain_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="if `drain_s` is null: drain time as a share of the shortest budget that the group can meet",
    )
    start_s: float = Field(
        20.0,
        ge=0,
        description="time from a decision until the new replica scores: no backlog is drained faster, and the planner "
        "expects a group without replicas to take this long",
    )
    stable_s: float = Field(60.0, gt=0, description="window over which demand is averaged")
    panic_s: float = Field(6.0, gt=0, description="window in which a surge is detected")
    panic_threshold: float = Field(
        2.0, gt=1, description="demand ÷ capacity of the running replicas from which on a surge is a panic"
    )
    panic_hold_s: float = Field(
        300.0, ge=0, description="a group does not shrink for this long after its last panic; surges come in series"
    )
    downscale_window_s: float = Field(
        120.0, ge=0, description="a group shrinks to the largest number of replicas that it needed within this time"
    )
    cooldown_s: float = Field(30.0, ge=0, description="a group does not shrink for this long after it has grown")
    margin: float = Field(
        0.1, ge=0, lt=1, description="a group shrinks only to its need plus this share of it, against oscillation"
    )
    idle_s: float = Field(
        300.0, gt=0, description="a group with `replicas.min` 0 loses its last replica after being idle for this long"
    )
    idle_utilisation: float = Field(
        0.05, ge=0, lt=1, description="a group counts as idle up to this share of one replica's time"
    )
    max_gpus: float | None = Field(
        None, ge=0, description="GPUs that all autoscaled groups may reserve together; null for no limit"
    )
    max_cpus: float | None = Field(
        None, ge=0, description="CPU cores that all autoscaled groups may reserve together; null for no limit"
    )
    groups: dict[Name, GroupScaling] = Field({}, description="settings of single groups, by name of the group")

    def utilisation_of(self, group: str) -> float:
        own = self.groups.get(group)
        return self.utilisation if own is None or own.utilisation is None else own.utilisation

    def drain_of(self, group: str) -> float | None:
        own = self.groups.get(group)
        return self.drain_s if own is None or own.drain_s is None else own.drain_s
