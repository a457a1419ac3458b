"""Parts of a fleet file: each a frozen section, strict about unknown keys."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

AUTO = "auto"  # the model name that leaves the choice to the planner
UNSCORED = "none"  # in place of a tier, where replies and metrics name the one that answered and none did
# Latency budgets in milliseconds. A shorter one is nearly always meant in seconds, and a longer one is no deadline.
MIN_SLO_MS, MAX_SLO_MS = 1.0, 3_600_000.0


def check_slo_ms(slo_ms: float) -> float:
    """A budget as it came. Raises ValueError for one that cannot be meant."""
    if MIN_SLO_MS <= slo_ms <= MAX_SLO_MS:
        return slo_ms
    hint = f"; {slo_ms:g} s are {slo_ms * 1e3:g}" if 1e-3 <= slo_ms < MIN_SLO_MS else ""
    raise ValueError(f"a budget is in milliseconds, from {MIN_SLO_MS:g} to {MAX_SLO_MS:.0f}, not {slo_ms:.10g}{hint}")


SloMs = Annotated[float, AfterValidator(check_slo_ms)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """A part of the file: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tier(Section):
    """One reranker at one size."""

    model: str = Field(description="a shipped name (demo/small), a folder, or a hub id")
    revision: str | None = Field(None, description="commit of the hub repository, pinned")
    quality: float = Field(ge=0, le=1, description="nDCG@10; published, or your own from `rankfleet evaluate`")
    max_tokens: int | None = Field(None, ge=8, description="longest pair scored, at most what the model takes")


class Replicas(Section):
    """How many replicas of a group may run."""

    min: int = Field(1, ge=0, description="never fewer; 0 lets an idle group go")
    max: int = Field(1, ge=1, description="never more")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Group(Section):
    """Replicas that host the same tiers on the same kind of device: one Ray Serve deployment."""

    tiers: list[Name] = Field(min_length=1, description="tiers that each replica hosts")
    replicas: Replicas = Field(Replicas(), description="autoscaled where min and max differ")
    cpus: float = Field(1.0, ge=0, description="CPU cores reserved for each replica; fractions are fine")
    gpus: float = Field(0.0, ge=0, description="GPUs reserved for each replica; fractions are fine")
    threads: int = Field(1, ge=1, description="torch threads of each replica on a CPU")
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="precision of products; auto: bfloat16 where the device is fast at it; int8: CPUs with VNNI"
    )
    batch_tokens: int = Field(16384, ge=64, description="most tokens in one device batch")
    resources: dict[str, float] = Field({}, description="custom Ray resources each replica needs")


class SloClass(Section):
    """A latency budget with a name."""

    slo_ms: SloMs | None = Field(None, description="budget per request in milliseconds; null for none")
    when_none_fits: Literal["degrade", "refuse"] = Field(
        "degrade",
        description="leave out tokens, candidates, or the whole scoring; or refuse: 429 with Retry-After, and 422 "
        "where not even an idle fleet could do it",
    )
    api_key_sha256: list[Sha256] = Field([], description="SHA-256 of API keys whose requests get this class")


class Arm(Section):
    """One side of an experiment."""

    model: Name = Field(description="a tier, or `auto`")
    weight: float = Field(ge=0, description="share of the units, relative to the other arms")


class Experiment(Section):
    """A split of traffic between models, by a hash of the unit's id."""

    unit: Literal["user", "session"] = Field("user", description="the request field that is hashed")
    seed: str = Field("1", description="change it to deal the units anew")
    arms: dict[Name, Arm] = Field(min_length=1, description="the sides, by name")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if sum(arm.weight for arm in self.arms.values()) <= 0:
            raise ValueError("all weights are 0; give at least one arm some weight")
        return self


# A body while it is read: itself, and its texts at up to four bytes a character, which one emoji in each is enough for.
BYTES_PER_BODY_BYTE = 5


class Limits(Section):
    """What one request may ask for."""

    max_documents: int = Field(1000, ge=1, description="documents of one request")
    max_document_bytes: int = Field(1_000_000, ge=1, description="UTF-8 bytes of one document")
    max_query_bytes: int = Field(32_000, ge=1, description="UTF-8 bytes of a query")
    max_passages: int = Field(16, ge=1, description="passages of one document; what is beyond them is cut")
    max_body_bytes: int = Field(64_000_000, ge=1, description="bytes of one HTTP body")
    max_bytes_in_flight: int = Field(
        512_000_000,
        ge=1,
        description="memory that bodies and texts under way may take in one router replica; beyond it 429",
    )

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        factor = BYTES_PER_BODY_BYTE + 3  # its JSON takes something too
        if self.max_bytes_in_flight < factor * self.max_body_bytes:
            raise ValueError(
                f"max_bytes_in_flight ({self.max_bytes_in_flight}) is below {factor} × max_body_bytes "
                f"({self.max_body_bytes}), what reading one body can take; raise the one or lower the other"
            )
        return self


class GroupScaling(Section):
    """Where one group scales otherwise than the rest."""

    utilisation: float | None = Field(None, gt=0, le=10, description="in place of the fleet's `utilisation`")
    drain_s: float | None = Field(None, gt=0, description="in place of the fleet's `drain_s`")


class Autoscaling(Section):
    """When groups grow and shrink. Demand and backlog are seconds of work at the tiers that requests would get on an
    idle fleet. Changes take effect without a restart. docs/autoscaling.md has the formula."""

    utilisation: float = Field(
        0.7, gt=0, le=10, description="share of a replica's time that demand is to take; above 1 is for lesser tiers"
    )
    drain_s: float | None = Field(
        None, gt=0, description="in what time a backlog has to be worked off; null: `drain_share` of the SLO classes"
    )
    drain_share: float = Field(
        0.5, gt=0, le=1, description="of the shortest budget that a group can serve: its `drain_s` where none is given"
    )
    start_s: float = Field(
        20.0, ge=0, description="from a decision to a replica that scores; no drain is planned faster"
    )
    stable_s: float = Field(60.0, gt=0, description="window over which demand is averaged")
    panic_s: float = Field(6.0, gt=0, description="window in which a surge is looked for")
    panic_threshold: float = Field(
        2.0, gt=1, description="demand of the panic window ÷ what runs, from which on nothing shrinks"
    )
    panic_hold_s: float = Field(
        300.0, ge=0, description="for how long after a surge nothing shrinks: surges come in series"
    )
    hold_s: float = Field(120.0, ge=0, description="a group shrinks to what it needed at most within this time")
    cooldown_s: float = Field(30.0, ge=0, description="after it has grown a group does not shrink for this long")
    margin: float = Field(0.1, ge=0, lt=1, description="what must be spare, beyond the need, for a group to shrink")
    idle_s: float = Field(
        300.0, gt=0, description="a group with `replicas.min` 0 is let go when rarely used for this long"
    )
    rarely: float = Field(
        0.05, ge=0, lt=1, description="up to this share of one replica's time a group counts as rarely used"
    )
    max_gpus: float | None = Field(
        None, ge=0, description="GPUs that all autoscaled groups may take; null for no limit"
    )
    max_cpus: float | None = Field(None, ge=0, description="CPU cores that they may take; null for no limit")
    groups: dict[Name, GroupScaling] = Field({}, description="by group, what differs from the above")

    def utilisation_of(self, group: str) -> float:
        own = self.groups.get(group)
        return self.utilisation if own is None or own.utilisation is None else own.utilisation

    def drain_of(self, group: str) -> float | None:
        own = self.groups.get(group)
        return self.drain_s if own is None or own.drain_s is None else own.drain_s


class Updates(Section):
    """How replicas go when others take their place."""

    surge_percent: int = Field(
        25,
        ge=0,
        le=100,
        description="replicas started before old ones stop, as a share of the group and at least one; 0 for none",
    )
    drain_s: float = Field(30.0, gt=0, description="how long a replica that goes may take to finish its work")

    def max_during_update(self, replicas: int) -> int:
        """How many there may be while some take the place of others."""
        return replicas + -(-replicas * self.surge_percent // 100)


class Quality(Section):
    """Where the planner's figures of quality come from. Without a table, one figure per tier: `tiers.NAME.quality`."""

    retriever: float = Field(0.0, ge=0, le=1, description="nDCG@10 of the order that requests come in")
    table: str | None = Field(None, description="JSON file of nDCG@10 by data set, tier, depth and cascade")
    data_set: str | None = Field(
        None, description="the data set in the table that is like your traffic; else its first"
    )


class Routing(Section):
    """How far ahead work is planned: until when everything that waits at a replica has to be done.

    The horizon is the longer of two: the time in which `expected_arrivals` more requests come, judged by how
    crowded it was when others came, and `horizon` × the typical budget × price ** `horizon_exponent`. The price
    is what the next larger tier gains, as a share of the range of qualities, per typical budget of device time.
    docs/routing.md derives it and shows what each setting does.
    """

    expected_arrivals: float = Field(
        0.5, gt=0, description="a replica may plan for the time in which so many further requests come"
    )
    horizon: float = Field(
        0.26, gt=0, description="share of the typical budget (the lower quartile) in which a backlog has to drain"
    )
    horizon_exponent: float = Field(
        0.63, ge=0, lt=1, description="how much longer that may take where a larger tier gains much: 0 for not at all"
    )
    arrival_window: float = Field(0.2, gt=0, description="window for the rate of arrivals, in typical budgets")
    memory_s: float = Field(30.0, gt=0, description="how long rates of arrivals are remembered")


class Scheduling(Section):
    """What a replica's queue does besides deadlines. docs/batching.md has the rules."""

    best_effort_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of a replica's time for work without a deadline while it waits; 0: only when idle otherwise",
    )


class Search(Section):
    """First stage of /v1/search."""

    index: str = Field(description="folder written by `rankfleet index build`")
    top_k: int = Field(100, ge=1, description="candidates handed to the reranker")
