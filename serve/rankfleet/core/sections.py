"""The sections of a fleet file, each frozen and strict about unknown keys."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rankfleet.core.bounds import MAX_SLO_MS, MIN_SLO_MS

AUTO = "auto"  # the model name that leaves the choice to the planner
UNSCORED = "none"  # in place of a tier, where replies and metrics name the one that answered and none did


def check_slo_ms(slo_ms: float) -> float:
    """The budget unchanged. Raises ValueError for one that is out of range, and guesses a wrong unit."""
    if MIN_SLO_MS <= slo_ms <= MAX_SLO_MS:
        return slo_ms
    hint = f"; {slo_ms:g} s are {slo_ms * 1e3:g}" if 1e-3 <= slo_ms < MIN_SLO_MS else ""
    raise ValueError(f"a budget is in milliseconds, from {MIN_SLO_MS:g} to {MAX_SLO_MS:.0f}, not {slo_ms:.10g}{hint}")


def is_url(folder: str) -> bool:
    """Whether a folder is one of a store that fsspec opens by its URL, and no path."""
    return "://" in folder


SloMs = Annotated[float, AfterValidator(check_slo_ms)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
# Of an SLO class, which may be called like the model that a client asks for, as in BAAI/bge-reranker-v2-m3.
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,126}$")]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$")]  # of a web page
# How requests list their documents: in the order of the retriever that found them, or in one that says nothing.
CandidateOrder = Literal["ranked", "unordered"]


class Section(BaseModel):
    """Base of all sections: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tier(Section):
    """One reranker at one size."""

    model: str = Field(description="checkpoint: a shipped name (demo/small), a folder, or a hub id")
    revision: str | None = Field(None, description="commit of the hub repository; null for its latest")
    quality: float = Field(ge=0, le=1, description="nDCG@10: published, or measured by `rankfleet evaluate`")
    max_tokens: int | None = Field(
        None, ge=8, description="longest pair in tokens; null for the longest that the model takes"
    )


class Replicas(Section):
    """How many replicas of a group may run."""

    min: int = Field(1, ge=0, description="smallest number of replicas; 0: none while the group is idle")
    max: int = Field(1, ge=1, description="largest number of replicas")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Group(Section):
    """Replicas that host the same tiers on the same kind of device: one Ray Serve deployment, or part of the router."""

    tiers: list[Name] = Field(min_length=1, description="tiers that every replica of the group hosts")
    replicas: Replicas = Field(Replicas(), description="number of replicas; autoscaled if `min` and `max` differ")
    cpus: float = Field(1.0, ge=0, description="CPU cores reserved per replica; fractions are allowed")
    gpus: float = Field(0.0, ge=0, description="GPUs reserved per replica; fractions are allowed")
    threads: int = Field(1, ge=1, description="threads that a replica on a CPU computes with")
    dtype: Literal["auto", "fastest", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="precision of matrix products. `auto`: on a GPU bfloat16, on a CPU the faster of float32 and "
        "bfloat16 as measured by the first replica; `fastest`: that, or `int8` for models that are known to rank as "
        "well in it; `int8` needs a CPU with VNNI",
    )
    batch_tokens: int = Field(16384, ge=64, description="largest number of tokens in one device batch")
    resources: dict[str, float] = Field({}, description="custom Ray resources reserved per replica")
    usd_per_hour: float | None = Field(
        None, ge=0, description="price of one replica's device in US dollars an hour, for the costs in `evaluate`"
    )
    in_router: bool = Field(
        False,
        description="host the group in the process of each router, with `cpus` more cores reserved there: no hop to a "
        "replica, and neither isolation nor scaling of its own; for groups on a CPU",
    )

    @model_validator(mode="after")
    def _fits_in_router(self) -> Self:
        if self.in_router:
            for key in ("replicas", "gpus", "resources"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"remove {key}, or in_router: a group with in_router has one replica in each of `routers`, on "
                        "the router's CPU"
                    )
        return self


class SloClass(Section):
    """A latency budget with a name."""

    slo_ms: SloMs | None = Field(None, description="budget per request in milliseconds; null for best effort")
    when_none_fits: Literal["degrade", "refuse"] = Field(
        "degrade",
        description="what happens if no plan meets the budget. `degrade`: leave out tokens, candidates or all scoring. "
        "`refuse`: answer 429 with Retry-After, or 422 if not even an idle fleet could meet it",
    )


class Tenant(Section):
    """Who sends requests, known by API keys. docs/keys.md says what each setting does."""

    slo_classes: list[ClassName] | None = Field(
        None,
        min_length=1,
        description="SLO classes that its requests may name; those that name none get the first. null: all, and the "
        "fleet's default",
    )
    tiers: list[Name] | None = Field(
        None, min_length=1, description="tiers that its requests may name, and that `auto` chooses from; null: all"
    )
    pairs_per_s: float | None = Field(
        None,
        gt=0,
        description="pairs that it may send per second, on average; above it the answer is 429; null for no limit",
    )
    requests_per_s: float | None = Field(
        None,
        gt=0,
        description="requests that it may send per second, of whatever size; above it the answer is 429; null for no "
        "limit",
    )
    share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="part of the fleet's device time that is its own; work above it waits behind that of others. null: "
        "an equal part of what the shares of others leave",
    )


# Memory of a body while it is parsed: its bytes, and its texts at up to 4 bytes per character (one emoji is enough).
BYTES_PER_BODY_BYTE = 5


class Limits(Section):
    """What one request may ask for."""

    max_documents: int = Field(
        1000, ge=1, description="largest number of documents in a request, of all queries together"
    )
    max_document_bytes: int = Field(1_000_000, ge=1, description="largest document, in UTF-8 bytes")
    max_query_bytes: int = Field(32_000, ge=1, description="largest query, in UTF-8 bytes")
    max_passages: int = Field(
        16, ge=1, description="largest number of passages of a document; text beyond them is cut off"
    )
    max_body_bytes: int = Field(64_000_000, ge=1, description="largest HTTP body, in bytes")
    max_bytes_in_flight: int = Field(
        512_000_000,
        ge=1,
        description="memory for bodies and texts of requests in flight in one router replica, in bytes; above it the "
        "answer is 429",
    )

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        factor = BYTES_PER_BODY_BYTE + 3  # for the parsed JSON
        if self.max_bytes_in_flight < factor * self.max_body_bytes:
            raise ValueError(
                f"max_bytes_in_flight ({self.max_bytes_in_flight}) is below {factor} × max_body_bytes "
                f"({self.max_body_bytes}), the memory that reading one body can take; raise it or lower max_body_bytes"
            )
        return self


class Updates(Section):
    """Rolling updates: how new replicas replace old ones."""

    surge_percent: int = Field(
        25,
        ge=0,
        le=100,
        description="replicas started before old ones stop, as a percentage of the group, at least one; 0: old ones "
        "stop first",
    )
    graceful_shutdown_timeout_s: float = Field(
        30.0, gt=0, description="how long a replica that stops may take to finish its work"
    )

    def max_during_update(self, replicas: int) -> int:
        """Largest number of replicas during an update."""
        return replicas + -(-replicas * self.surge_percent // 100)


class Quality(Section):
    """Where the planner's quality figures come from. Without a table it uses `tiers.NAME.quality`."""

    retriever: float = Field(
        0.0,
        ge=0,
        le=1,
        description="nDCG@10 of the order in which documents come, with `candidates: ranked`; 0: not known",
    )
    table: str | None = Field(
        None,
        description="JSON file with nDCG@10 by data set, tier, depth and cascade, and the weights of fusion, from "
        "`rankfleet evaluate --table`; or that of shipped models (demo/quality.json)",
    )
    data_set: str | None = Field(
        None, description="the data set of the table that resembles your traffic; null for its first"
    )


class Routing(Section):
    """How far ahead a replica plans: its horizon is the time by which everything that waits there should be done.

    The horizon is the longer of two times: the time in which `expected_arrivals` more requests arrive, at the arrival
    rate of recent bursts, and `horizon` × the typical budget × price ** `horizon_exponent`. The price is the quality
    that the next larger tier gains, as a share of the range of qualities, per typical budget of device time.
    docs/routing.md derives the rule and shows what each setting does.
    """

    expected_arrivals: float = Field(
        0.5,
        gt=0,
        description="planning horizon of a replica: the time in which this many further requests arrive",
    )
    horizon: float = Field(
        0.26,
        gt=0,
        description="shortest planning horizon, as a share of the typical budget (the lower quartile)",
    )
    horizon_exponent: float = Field(
        0.63,
        ge=0,
        lt=1,
        description="how much `horizon` grows with the quality that a larger tier gains; 0: not at all",
    )
    arrival_window: float = Field(
        0.2, gt=0, description="window over which the arrival rate is measured, in typical budgets"
    )
    memory_s: float = Field(30.0, gt=0, description="how long arrivals are remembered: their rates and budgets")


class Scheduling(Section):
    """What a replica's queue does with work that has no deadline. docs/batching.md has the rules."""

    best_effort_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of a replica's time that best-effort work (without a deadline) gets while it waits; 0: only "
        "when nothing else waits",
    )


class DecisionLog(Section):
    """Routing decisions with everything they were made from, for `rankfleet plan --replay`. Holds no texts."""

    folder: str | None = Field(
        None, description="where each router replica writes a file of decisions; null: none are written"
    )
    share: float = Field(0.01, gt=0, le=1, description="share of the decisions that are written, chosen at random")


class Events(Section):
    """What became of each request, and the feedback that came for it, for experiments. Holds no texts."""

    folder: str | None = Field(
        None,
        description="where each router writes them, in files of an hour: a folder, or a URL that fsspec opens "
        "(s3://bucket/events), to which whole hours go; null: none are written, and `/v1/feedback` answers 404",
    )
    keep_days: int = Field(30, ge=1, description="files are removed that many days after their day")
    max_mb: float = Field(
        2000.0, gt=0, description="size of all files of the folder together, in MB; above it the oldest are removed"
    )


class Search(Section):
    """The first stage of /v1/search."""

    index: str = Field(description="folder that `rankfleet index build` has written")
    top_k: int = Field(100, ge=1, description="candidates that the first stage passes to the reranker")
