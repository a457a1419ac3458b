"""The precision that a model is computed in: which ones are allowed, and which of these is the fastest."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

CHOSEN = ("auto", "fastest")  # values of `dtype` that leave the choice to a measurement
# nDCG@10 that a lower precision may cost: no more than the noise of a test collection of a few hundred queries.
MAX_COST = 0.002

Rates = Mapping[str, float]  # precision → pairs per second on one thread


@dataclass(frozen=True)
class Precision:
    """What a model is computed in.

    dtype: of the matrix products. reason: why, for people.
    pairs_per_s: of each precision that was measured, on one thread; empty if nothing was.
    """

    dtype: str
    reason: str
    pairs_per_s: Rates = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def choose(
    wanted: str, computable: Collection[str], costs: Mapping[str, float], measure: Callable[[Sequence[str]], Rates]
) -> Precision:
    """The fastest precision that a model may be computed in on a CPU; of equally fast ones the most precise.

    wanted: one of CHOSEN. `auto`: float32 or bfloat16. `fastest`: int8 too.
    computable: precisions that this processor is made for.
    costs: nDCG@10 that a precision loses against float32, where it was measured for this model. What costs more than
        MAX_COST is passed over. Unmeasured, bfloat16 is taken for harmless and int8 is not.
    measure: their rates; called only if there is a choice.
    """
    allowed, notes = ["float32"], []
    for dtype in ("bfloat16", "int8") if wanted == "fastest" else ("bfloat16",):
        cost = costs.get(dtype)
        if dtype not in computable:
            notes.append(f"{dtype} cannot be computed fast here")
        elif cost is None and dtype == "int8":
            notes.append("it was not measured what int8 costs this model")
        elif cost is not None and cost > MAX_COST:
            notes.append(f"{dtype} costs this model {cost:.4f} nDCG@10, more than {MAX_COST}")
        else:
            allowed.append(dtype)
    if len(allowed) == 1:
        return Precision("float32", "; ".join(notes))
    rates = measure(allowed)
    fastest = max(allowed, key=rates.__getitem__)
    measured = ", ".join(f"{dtype} {rates[dtype]:.0f}" for dtype in allowed)
    return Precision(fastest, "; ".join([f"the fastest here: {measured} pairs/s on one thread", *notes]), rates)
