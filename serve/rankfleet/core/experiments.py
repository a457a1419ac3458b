"""The `experiments` section of a fleet file: A/B splits between sizes, what else an arm may change, and when an arm is
stopped by itself."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from rankfleet.core.fingerprint import settings_name
from rankfleet.core.sections import AUTO, ClassName, Name, Section

NO_CHANGE = "no change"  # what an arm without settings makes
CONTROL = "control"  # the arm that others are compared with, if there is one of this name
Weight = Annotated[float, Field(ge=0)]
MeasureName = Annotated[
    str, Field(pattern=r"^(latency_ms|attainment|error_rate|conversion|(ctr|mrr|ndcg)(@[1-9][0-9]?)?)$")
]


class Cascade(Section):
    """Two tiers that every request of an arm passes."""

    first: Name = Field(description="the tier that scores all candidates")
    second: Name = Field(description="the tier that scores the best of them again, and answers")
    candidates: int = Field(ge=1, description="how many of the best `second` scores")

    @model_validator(mode="after")
    def _two_tiers(self) -> Self:
        if self.first == self.second:
            raise ValueError(f"first and second are both {self.first!r}; name two tiers")
        return self


class Arm(Section):
    """One side of an experiment: what its requests get that others do not. An arm that sets only a weight changes
    nothing, which is what a control is."""

    weight: Weight = Field(description="share of users or sessions, relative to the other arms")
    model: Name | None = Field(None, description="the tier that answers, or `auto` for the planner's choice")
    tiers: list[Name] | None = Field(None, min_length=1, description="tiers that the planner chooses from")
    cascade: Cascade | None = Field(None, description="two tiers, one after the other")
    min_quality: float | None = Field(None, ge=0, le=1, description="lowest acceptable nDCG@10")
    slo_class: ClassName | None = Field(None, description="SLO class of its requests")
    fusion_weight: float | None = Field(
        None,
        ge=0,
        description="how much the order of ranked candidates counts beside a tier's logits, in logits per unit of "
        "evidence, in place of the quality table's weights; 0: not at all",
    )
    stopped: bool = Field(False, description="true: its users or sessions are answered as those of the control")

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        named = [key for key in ("model", "tiers", "cascade") if getattr(self, key) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} both say which tiers answer; keep one of them")
        return self

    @property
    def named_tiers(self) -> tuple[str, ...]:
        """All tiers that it names, `auto` not among them."""
        if self.cascade is not None:
            return (self.cascade.first, self.cascade.second)
        return tuple(self.tiers or [name for name in (self.model,) if name is not None and name != AUTO])

    @property
    def summary(self) -> str:
        """What it changes, for people."""
        cascade = self.cascade and f"{self.cascade.first}, then {self.cascade.second} on {self.cascade.candidates}"
        parts = [cascade or " or ".join(self.tiers or ()) or self.model]
        parts += [f"quality ≥ {self.min_quality:g}"] if self.min_quality is not None else []
        parts += [f"class {self.slo_class}"] if self.slo_class is not None else []
        parts += [f"fusion weight {self.fusion_weight:g}"] if self.fusion_weight is not None else []
        return ", ".join(filter(None, parts)) or NO_CHANGE


def after_1970(at: datetime) -> datetime:
    if at.timestamp() < 0:
        raise ValueError("is before 1970")
    return at


class Step(Section):
    """New weights from a time on."""

    at: Annotated[AwareDatetime, AfterValidator(after_1970)] = Field(
        description="when, with a time zone: 2026-12-01T08:00:00Z"
    )
    weights: dict[Name, Weight] = Field(description="weights by arm; an arm that is left out keeps its own")


class Rollback(Section):
    """How much worse than the control an arm may be before it is stopped."""

    error_rate: float | None = Field(
        0.01, ge=0, lt=1, description="how much higher the share of requests without an answer may be; null: not tested"
    )
    attainment: float | None = Field(
        0.02,
        ge=0,
        lt=1,
        description="how much lower the share of budgets met, of the answers that have one, may be; null: not tested",
    )
    latency_p99: float | None = Field(
        None,
        ge=1,
        description="how many times the control's 99th percentile of latency an arm's may be; null: not tested, since "
        "sizes differ in latency and budgets say how much is too much",
    )


class Experiment(Section):
    """An A/B split: users, sessions or other units are assigned to arms by a hash of their id."""

    mode: Literal["split", "shadow"] = Field(
        "split",
        description="`split`: an arm answers its requests; `shadow`: requests are answered as without the experiment, "
        "and what the arm would have answered is compared with that afterwards, if the fleet has nothing else to do",
    )
    unit: Literal["user", "session", "key", "query", "header"] = Field(
        "user",
        description="what is assigned to an arm, and stays there: the request's `user` or `session`, the tenant of its "
        "API key, its query, or the value of a header. A request without it takes no part",
    )
    header: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = Field(
        None, description="with `unit: header`, the header's name in small letters"
    )
    tenants: list[Name] | None = Field(
        None, min_length=1, description="whose requests may take part, by the tenants of their API keys; null: all"
    )
    seed: str = Field("1", description="part of the hash; a change assigns all units anew")
    arms: dict[Name, Arm] = Field(min_length=1, description="arms by name")
    schedule: list[Step] = Field(
        [], description="later weights, in order of time; each step moves only the units that it must"
    )
    stopped: bool = Field(False, description="true: no request takes part any more")
    control: Name | None = Field(
        None, description="the arm that others are compared with; null: the one called `control`, else the first"
    )
    rollback: Rollback | None = Field(
        Rollback(),
        description="how much worse than the control an arm may be before it is stopped by itself; null: it never is",
    )
    margins: dict[MeasureName, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="by how much an arm may be worse than control and still be recommended by `rankfleet experiment "
        "report`: in milliseconds for `latency_ms`, else as a difference of shares; measures are `attainment`, "
        "`error_rate`, `ctr@10`, `mrr@10`, `ndcg@10` (any number of results) and `conversion`; null: 0.01 for each but "
        "latency",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.unit == "header") != (self.header is not None):
            raise ValueError("`unit: header` and `header` (its name) go together; give both or neither")
        if self.control_arm not in self.arms:
            raise ValueError(f"control: {self.control!r} is none of {', '.join(self.arms)}")
        if self.arms[self.control_arm].stopped:
            raise ValueError(
                f"{self.control_arm} is the control, which stopped arms fall back to; set `stopped: true` of the "
                "experiment to stop all of it"
            )
        served = [name for name, arm in self.arms.items() if arm.slo_class is not None or arm.min_quality is not None]
        if self.mode == "shadow" and served:
            raise ValueError(
                f"arms {', '.join(served)}: with `mode: shadow` nobody waits for an arm's answer, so that `slo_class` "
                "and `min_quality` mean nothing; leave them out"
            )
        for place, step in enumerate(self.schedule):
            if unknown := sorted(set(step.weights) - set(self.arms)):
                raise ValueError(f"schedule.{place}: {', '.join(unknown)} is none of {', '.join(self.arms)}")
            if place and step.at <= self.schedule[place - 1].at:
                raise ValueError(f"schedule.{place}: its time is not after that of the step before it")
        for place, weights in enumerate(self.all_weights()):
            if sum(weights.values()) <= 0:
                where = f"schedule.{place - 1}: " if place else ""
                raise ValueError(f"{where}all weights are 0; give at least one arm some weight")
        return self

    def all_weights(self) -> Iterator[Mapping[str, float]]:
        """The weights by arm: at first, and after each step of the schedule."""
        weights = {name: arm.weight for name, arm in self.arms.items()}
        yield weights
        for step in self.schedule:
            weights = weights | step.weights
            yield weights

    @property
    def control_arm(self) -> str:
        """The arm that others are compared with, and whose settings the units of stopped arms get."""
        return self.control or (CONTROL if CONTROL in self.arms else next(iter(self.arms)))

    def identity(self, name: str) -> str:
        """The fingerprint of what is tried on whom: name, mode, unit, tenants, seed, control, changes of the arms.

        Weights may change within one experiment. A change of anything else makes it another one, in which no arm has
        been stopped.
        """
        arms = {arm: settings.model_dump(exclude={"weight", "stopped"}) for arm, settings in self.arms.items()}
        unit = [self.unit, self.header, self.seed, self.tenants and sorted(self.tenants)]
        return settings_name({"name": name, "mode": self.mode, "unit": unit, "control": self.control_arm, "arms": arms})
