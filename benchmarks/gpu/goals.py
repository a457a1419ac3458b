"""What the suite should reach on an H100 or H200, beside what it measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound on one figure. path: its keys within the results of a part and shape, of which the best counts;
    at_most: whether the bound is an upper one."""

    what: str
    shape: str
    part: str
    paths: tuple[tuple[str, ...], ...]
    bound: float
    at_most: bool = False

    def measured(self, report: Mapping[str, Any]) -> float | None:
        """The best of the figures that the report has; None where it has none."""
        result = report["parts"].get(self.part, {}).get("shapes", {}).get(self.shape, {})
        found = [figure for path in self.paths if (figure := at(result, path)) is not None]
        return (min if self.at_most else max)(found) if found else None

    def is_met(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound


def at(result: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    for key in path:
        if key not in result:
            return None
        result = result[key]
    return float(result)  # type: ignore[arg-type]


FROM_IDS = (("pairs_per_s",),)
FROM_TEXTS = (("pairs_per_s", "rankfleet, from texts"), ("pairs_per_s", "rankfleet, from texts on all threads"))
GOALS = (
    Goal("17m from token ids, pairs/s", "17m", "matmul", FROM_IDS, 150_000),
    Goal("17m from texts, pairs/s", "17m", "compare", FROM_TEXTS, 75_000),
    Goal("150m from token ids, pairs/s", "150m", "matmul", FROM_IDS, 10_000),
    Goal("1b, share of the measured bfloat16 matrix rate", "1b", "matmul", (("bound_fraction",),), 0.7),
    Goal(
        "17m, 100 pairs of 154 tokens, p50 ms",
        "17m",
        "latency",
        (("with graphs", "p50_ms"), ("without", "p50_ms")),
        2.0,
        at_most=True,
    ),
)


def beside_goals(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """For each goal: what, its bound, and what was measured."""
    for goal in GOALS:
        figure = goal.measured(report)
        verdict = "not measured" if figure is None else f"{figure:,g}, {'met' if goal.is_met(figure) else 'not met'}"
        yield goal.what, f"{'≤' if goal.at_most else '≥'} {goal.bound:,g}", verdict
