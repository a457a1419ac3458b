"""A choice in words, and as the JSON object that is written, printed and drawn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rankfleet.recommend.choice import Assessment, Choice, Option, assess
from rankfleet.recommend.figures import PUBLISHED_DEVICE, Figures
from rankfleet.recommend.sizing import ATTAINMENT, Sizing, Traffic

MEASURE = "Measure on your own queries with `rankfleet evaluate --json FILE`, and give the file as --from."


@dataclass(frozen=True)
class Recommendation:
    """A choice with what it was made from. sizing: None if no traffic was given, or if no number of replicas is
    enough for it."""

    figures: Figures
    choice: Choice
    traffic: Traffic | None = None
    sizing: Sizing | None = None

    def to_json(self) -> dict[str, Any]:
        """All figures, times in ms, with the paragraph."""
        choice, chosen = self.choice, self.choice.chosen
        return {
            "recommended": None if chosen is None else chosen.option.name,
            "shown": choice.shown,
            "paragraph": self.paragraph(),
            "source": self.figures.source,
            "queries": self.figures.queries,
            "goal": asdict(choice.goal),
            "best": choice.best.name,
            "given_order": round(self.figures.given.quality, 4),
            "options": [row_of(each, choice.best) for each in choice.assessed],
            "traffic": self.traffic and asdict(self.traffic),
            "sizing": self.sizing and asdict(self.sizing),
        }

    def paragraph(self) -> str:
        """What to run, what it loses, what it saves, how many replicas it takes, and what cannot be told."""
        chosen, goal = self.choice.chosen, self.choice.goal
        if chosen is None:
            fastest = min((each.option.p99_ms for each in self.choice.assessed if each.option.p99_ms), default=None)
            takes = "" if fastest is None else f": the fastest takes {fastest:.1f} ms on an idle device"
            return f"No option is known to answer within {goal.slo_ms:g} ms{takes}."
        sentences = [self.what_to_run(chosen), *self.what_it_saves(chosen.option), *self.what_it_takes()]
        return " ".join([*sentences, *self.without_a_reranker(chosen), *self.what_is_unknown(chosen)])

    def what_to_run(self, chosen: Assessment) -> str:
        best, goal = self.choice.best, self.choice.goal
        run = f"Run {chosen.option.name}"
        if not self.figures.queries:
            run += ", by published figures, which are not of your data and come without intervals"
        on = f"nDCG@10 {chosen.option.quality:.4f}" + (f" on {self.figures.source}" if self.figures.queries else "")
        if goal.target is not None:
            reached = f"at least {goal.target:g}" + (" with 95% confidence" if chosen.interval else "")
            return f"{run}: {on}, {'' if self.choice.shown else 'the best, not shown to be '}{reached}."
        if chosen.option is best:
            cheaper = self.choice.assessed.index(chosen) > 0
            none = f"; none that costs less is shown to lose at most {goal.max_loss:g}" if cheaper else ""
            return f"{run}: {on}, the best of {len(self.choice.assessed)} options{none}."
        loses = f"it loses {chosen.loss:.4f}{interval_of(chosen)} against the best, {best.name} with {best.quality:.4f}"
        if not self.choice.shown:
            allowed = "above" if chosen.verdict == "loses too much" else "not shown to be within"
            within = "" if goal.slo_ms is None else f", the best within {goal.slo_ms:g} ms"
            return f"{run}: {on}{within}; {loses}: {allowed} the {goal.max_loss:g} allowed."
        confidence = ", with 95% confidence" if chosen.interval else ""
        return f"{run}: {on}; {loses}: within the {goal.max_loss:g} allowed{confidence}."

    def what_it_saves(self, chosen: Option) -> list[str]:
        best, device = self.choice.best, "" if self.figures.queries else f" on an {PUBLISHED_DEVICE}"
        if chosen is best or chosen.ms is None or best.ms is None:
            return []
        return [
            f"It saves {1 - chosen.ms / best.ms:.0%} of the device time: {chosen.ms:.1f} ms a request{device}, "
            f"not {best.ms:.1f}."
        ]

    def what_it_takes(self) -> list[str]:
        traffic, sizing = self.traffic, self.sizing
        if traffic is None:
            return []
        load = f"{traffic.requests_per_s:g} requests/s of {traffic.candidates} candidates"
        if sizing is None:
            return [f"No number of replicas answers {ATTAINMENT:.0%} of {load} within {traffic.slo_ms:g} ms."]
        count = "1 replica" if sizing.replicas == 1 else f"{sizing.replicas} replicas"
        return [
            f"{load} take {count}: simulated, {sizing.attainment:.1%} are answered within {traffic.slo_ms:g} ms, 99% "
            f"of these within {sizing.p99_ms:.0f} ms."
        ]

    def what_is_unknown(self, chosen: Assessment) -> list[str]:
        """The cheaper options of which it cannot be told whether they are enough."""
        if not self.figures.queries:
            return [MEASURE]
        cheaper = self.choice.assessed[: self.choice.assessed.index(chosen)]
        unknown = [f"{each.option.name} ({needed(each)})" for each in cheaper if each.verdict == "cannot tell"]
        if not unknown:
            return []
        few = f"{self.figures.queries:,} queries are too few to tell whether"
        return [f"{few} something cheaper is enough: {', '.join(unknown)}."]

    def without_a_reranker(self, chosen: Assessment) -> list[str]:
        """What the order in which the candidates come is worth."""
        given, choice = self.figures.given, self.choice
        own = f"The order in which the candidates come has nDCG@10 {given.quality:.4f}"
        if assess(given, choice.best, choice.goal, len(choice.assessed)).verdict == "enough":
            return [f"{own}, which is enough without any reranker."]
        return [f"{own}."] if given.quality < chosen.option.quality else [f"{own}: better than {chosen.option.name}'s."]


def row_of(assessment: Assessment, best: Option) -> dict[str, Any]:
    """One option's figures."""
    option = assessment.option

    def rounded(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "option": option.name,
        "ndcg@10": round(option.quality, 4),
        "loss": round(assessment.loss, 4),
        "interval": assessment.interval and [round(end, 4) for end in assessment.interval],
        "ms": rounded(option.ms, 3),
        "p99_ms": rounded(option.p99_ms, 3),
        "saved": None if option.ms is None or not best.ms else round(1 - option.ms / best.ms, 3),
        "verdict": assessment.verdict,
        "queries_needed": assessment.queries,
    }


def table_of(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) of `options` in the JSON object; a column that no row has is left out."""

    def cells(row: dict[str, Any]) -> dict[str, str]:
        low, high = row["interval"] or (0.0, 0.0)
        return {
            "": row["option"],
            "nDCG@10": f"{row['ndcg@10']:.4f}",
            "lost": f"{row['loss']:.4f}",
            "95%": f"{low:+.4f} to {high:+.4f}" if row["interval"] else "",
            "ms a request": "" if row["ms"] is None else f"{row['ms']:.1f}",
            "p99 ms": "" if row["p99_ms"] is None else f"{row['p99_ms']:.1f}",
            "saved": "" if row["saved"] is None else f"{row['saved']:.0%}",
            "verdict": row["verdict"],
            "queries that would": f"{row['queries_needed']:,}" if row["queries_needed"] else "",
        }

    filled = [cells(row) for row in rows]
    header = [name for name in filled[0] if any(row[name] for row in filled)]
    return header, [[row[name] for name in header] for row in filled]


def interval_of(assessment: Assessment) -> str:
    """In brackets, with a space before it; empty without one."""
    return "" if assessment.interval is None else " ({:+.4f} to {:+.4f})".format(*assessment.interval)


def needed(assessment: Assessment) -> str:
    return "no number would" if assessment.queries is None else f"about {assessment.queries:,} would"
