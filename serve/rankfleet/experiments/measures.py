"""What the arms of an experiment are compared by, and how much worse is still acceptable."""

from collections.abc import Mapping
from dataclasses import dataclass

from rankfleet.core.experiments import Experiment

DEFAULT_K = 10  # of measures of the first k results


@dataclass(frozen=True)
class Measure:
    """One measure: a mean over requests.

    kind: what it is; its name is `kind`, or `kind@k` where it looks at the first k results.
    margin: by how much an arm may be worse, if the experiment does not say; in the unit of the measure.
    from_feedback: whether it comes from POST /v1/feedback.
    """

    kind: str
    label: str
    higher_is_better: bool
    margin: float
    k: int | None = None
    unit: str = ""
    from_feedback: bool = True

    @property
    def name(self) -> str:
        return self.kind if self.k is None else f"{self.kind}@{self.k}"

    @property
    def title(self) -> str:
        return self.label if self.k is None else f"{self.label}@{self.k}"

    @property
    def sign(self) -> int:
        """1 if higher is better, else −1."""
        return 1 if self.higher_is_better else -1

    def shown(self, value: float, signed: bool = False) -> str:
        """A value or a difference for people: milliseconds, a percentage, or a figure between 0 and 1."""
        plus = "+" if signed and value != 0 else ""
        value += 0.0  # turns -0.0 into 0.0
        if self.unit == "ms":
            return f"{value:{plus}.1f} ms"
        return f"{value:{plus}.4f}" if self.kind in ("mrr", "ndcg") else f"{100 * value:{plus}.2f}%"


LATENCY = Measure("latency_ms", "latency", False, 0.0, unit="ms", from_feedback=False)
MEASURES = {
    each.kind: each
    for each in (
        LATENCY,
        Measure("attainment", "attainment", True, 0.01, from_feedback=False),
        Measure("error_rate", "error rate", False, 0.01, from_feedback=False),
        Measure("ctr", "CTR", True, 0.01, DEFAULT_K),
        Measure("mrr", "MRR", True, 0.01, DEFAULT_K),
        Measure("ndcg", "nDCG", True, 0.01, DEFAULT_K),
        Measure("conversion", "conversion", True, 0.01),
    )
}


def measure_of(name: str) -> Measure:
    """The measure of a name that the fleet file accepts: `attainment`, `ctr@5`."""
    kind, _, k = name.partition("@")
    measure = MEASURES[kind]
    return measure if not k else Measure(**vars(measure) | {"k": int(k)})


def margins_of(experiment: Experiment) -> Mapping[Measure, float]:
    """By how much an arm may be worse in what: as the fleet file says, else of every measure but latency."""
    if experiment.margins is not None:
        return {measure_of(name): margin for name, margin in experiment.margins.items()}
    return {measure: measure.margin for measure in MEASURES.values() if measure.margin > 0}
