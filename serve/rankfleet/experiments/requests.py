"""The requests of an experiment as arrays: arm, unit, step of the schedule, and what became of each."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfleet.experiments.measures import Measure

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# rank: place of the first result that was clicked, from 1; null if none was. A click on a document that was not
# returned has no rank.
REQUESTS = """
    SELECT e.arm, e.unit, e.step, e.at_s, e.router, e.total_ms, e.met, e.budget_ms, e.error, e.degraded, e.tier,
           f.request_id IS NOT NULL AS has_feedback, f.converted,
           list_min([list_position(e.ranking, c) for c in f.clicks if list_contains(e.ranking, c)]) AS rank,
           e.ranking, f.labels, f.clicks IS NOT NULL AND len(f.clicks) > 0 AS has_clicks
    FROM events e LEFT JOIN feedback f
         ON f.request_id = e.request_id AND f.tenant IS NOT DISTINCT FROM e.tenant
    WHERE e.experiment = ? AND e.arm IS NOT NULL
    ORDER BY e.at_s
"""


@dataclass(frozen=True)
class Requests:
    """Requests of one experiment, in order of time. Arrays are [requests].

    arm_names: of the file; arms: int, places among them. unit_ids: hashes of the units; units: int, places among them.
    steps: int, which weights were in force. at: seconds since 1970. routers: names.
    total_ms: float. failed: whether it was refused or failed. met: float, 1 if the budget was met, 0 if not, NaN
    without a budget; of a failed request with a budget 0. degraded: bool. tiers: name of that which answered, or "".
    first_clicks: float, rank of the first result that was clicked, from 1; infinity if none was.
    conversions: float, 0 or 1. labelled: by place of the request, the labels of its results in the order returned, and
    those of the best order.
    clicks_known, conversions_known: whether any feedback of the experiment says so; without, nobody sends it.
    """

    arm_names: tuple[str, ...]
    arms: np.ndarray
    unit_ids: np.ndarray
    units: np.ndarray
    steps: np.ndarray
    at: np.ndarray
    routers: np.ndarray
    total_ms: np.ndarray
    failed: np.ndarray
    met: np.ndarray
    degraded: np.ndarray
    tiers: np.ndarray
    first_clicks: np.ndarray
    conversions: np.ndarray
    labelled: dict[int, tuple[list[float], list[float]]]
    clicks_known: bool = False
    conversions_known: bool = False

    def __len__(self) -> int:
        return len(self.arms)

    def where(self, chosen: np.ndarray) -> "Requests":
        """Some of the requests. chosen: bool [requests]. Units keep their places."""
        places = np.flatnonzero(chosen)
        new_place = {int(old): new for new, old in enumerate(places)}
        arrays = {
            name: getattr(self, name)[chosen]
            for name in ("arms", "units", "steps", "at", "routers", "total_ms", "failed", "met", "degraded", "tiers")
        }
        labelled = {new_place[place]: labels for place, labels in self.labelled.items() if place in new_place}
        feedback = {"first_clicks": self.first_clicks[chosen], "conversions": self.conversions[chosen]}
        return replace(self, **arrays, **feedback, labelled=labelled)

    def values(self, measure: Measure) -> np.ndarray:
        """float [requests]: the measure of each, NaN where it has none."""
        nothing = np.full(len(self), np.nan)
        match measure.kind:
            case "latency_ms":
                return np.where(self.failed, np.nan, self.total_ms)
            case "attainment":
                return self.met
            case "error_rate":
                return self.failed.astype(float)
            case "ctr" if self.clicks_known:
                return (self.first_clicks <= (measure.k or np.inf)).astype(float)
            case "mrr" if self.clicks_known:
                return np.where(self.first_clicks <= (measure.k or np.inf), 1 / self.first_clicks, 0.0)
            case "conversion" if self.conversions_known:
                return self.conversions
            case "ndcg":
                for place, (found, ideal) in self.labelled.items():
                    best = dcg(ideal[: measure.k])
                    nothing[place] = dcg(found[: measure.k]) / best if best > 0 else np.nan
        return nothing


def dcg(gains: list[float]) -> float:
    """Σ gain ⁄ log2(rank + 1), as trec_eval has it."""
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)))


def read_requests(store: "DuckDBPyConnection", experiment: str, arms: tuple[str, ...]) -> Requests:
    """The requests of an experiment. store: from `open_store`. arms: those of the file; requests of others are left
    out, such as of an arm that has been removed."""
    columns = store.execute(REQUESTS, [experiment]).fetchnumpy()
    place_of = {name: place for place, name in enumerate(arms)}
    arm = np.array([place_of.get(name, -1) for name in columns["arm"]], np.int64)
    kept = arm >= 0

    def column(name: str, missing: Any, kind: type) -> np.ndarray:
        values = columns[name]
        filled = values.filled(missing) if isinstance(values, np.ma.MaskedArray) else values
        return np.array([missing if value is None else value for value in filled[kept]], kind)

    def present(name: str) -> np.ndarray:
        values = columns[name]
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else np.zeros(len(values), bool)
        there = [not hidden and value is not None for hidden, value in zip(mask, values, strict=True)]
        return np.array(there, bool)[kept]

    failed = present("error")
    met = np.where(present("met"), column("met", False, bool).astype(float), np.nan)
    unit_ids, units = np.unique(column("unit", "", str), return_inverse=True)
    first_clicks = np.where(present("rank"), column("rank", 0, float), np.inf)
    labelled = {}
    has_labels = present("labels")
    for new, old in enumerate(np.flatnonzero(kept)):
        if has_labels[new] and (labels := columns["labels"][old]):
            gains = {int(document): float(gain) for document, gain in dict(labels).items()}
            found = [gains.get(int(document), 0.0) for document in columns["ranking"][old]]
            labelled[new] = (found, sorted(gains.values(), reverse=True))
    return Requests(
        arm_names=arms,
        arms=arm[kept],
        unit_ids=unit_ids,
        units=units,
        steps=column("step", 0, int),
        at=column("at_s", 0.0, float),
        routers=column("router", "", str),
        total_ms=column("total_ms", np.nan, float),
        failed=failed,
        met=np.where(failed & present("budget_ms"), 0.0, met),
        degraded=present("degraded"),
        tiers=column("tier", "", str),
        first_clicks=first_clicks,
        conversions=column("converted", False, bool).astype(float),
        labelled=labelled,
        clicks_known=bool(column("has_clicks", False, bool).any()),
        conversions_known=bool(present("converted").any()),
    )
