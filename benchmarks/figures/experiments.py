"""Figures of docs/experiments.md."""

from collections.abc import Callable

from benchmarks.figures.stored import conditions, stored

from rankfleet.bench.tables import markdown
from rankfleet.experiments.assignment import MISMATCH_P
from rankfleet.experiments.measures import measure_of


def experiments() -> str:
    """What simulated experiments say of the report and of the split."""
    figures = stored("experiments")
    alike, mismatch, shares = (figures[name] for name in ("without_difference", "mismatch", "shares"))
    rows = [
        [
            f"no difference, {alike['requests']:,} requests, a look after every {alike['requests'] // alike['looks']}",
            f"{alike['experiments']:,}",
            f"{alike['false_alarms']:.1%} with any alarm",
            "at most 5%",
        ]
    ]
    for name, planted in figures["planted"].items():
        measure = measure_of(name)
        size = measure.shown(planted["difference"])
        rows.append(
            [
                f"{measure.title} differs by {size}, {planted['requests_planned']:,} requests as `plan` says",
                f"{planted['experiments']:,}",
                f"{planted['found']:.0%} found, half of them within {planted['median_requests_when_found']:,.0f}",
                "at least 80%",
            ]
        )
    lost = f"{mismatch['lost_share_of_an_arm']:.0%} of one arm's users are lost, {mismatch['users']:,} users"
    found = f"{mismatch['found']:.1%} found; {mismatch['false_alarms']:.1%} without a loss"
    rows.append([lost, f"{mismatch['experiments']:,}", found, f"found; {MISMATCH_P:.1%} without"])
    rows.append(
        [
            f"share of an arm of 10% among {shares['units']:,} users",
            "1",
            f"{shares['share']:.3%}, {shares['standard_errors']:.2f} standard errors off",
            "within sampling error",
        ]
    )
    out = f"{shares['moved_out_of_the_arm_that_grows']} of them out of the arm that grows"
    rows.append(["a step from 10% to 20%", "1", f"moves {shares['moved']:.2%} of the users, {out}", "10%, none"])
    table = markdown(["simulated", "experiments", "result", "goal"], rows, left=1)
    return f"{table}\n\n{conditions(figures['measured'])}."


def walk() -> str:
    """What the commands of the walk-through printed, but for those that only send requests."""
    figures = stored("experiment_walk")
    shown = [
        f"$ {each['command']}\n{each['printed'].rstrip()}"
        for each in figures["printed"]
        if each["command"].split()[:3] in (["rankfleet", "experiment", verb] for verb in ("plan", "report"))
    ]
    text = "\n\n".join("\n".join(line.rstrip() for line in each.splitlines()) for each in shown)
    return f"```\n{text}\n```\n\n{conditions(figures['measured'])}."


def shadow() -> str:
    """Attainment with a shadow arm and without."""
    figures = stored("shadow")
    settings, rows = figures["settings"], []
    for name, load in figures["loads"].items():
        low, high = (100 * value for value in load["interval"])
        met = [f"{load[key]:.2%}" for key in ("met_without", "met_with")]
        p50 = [f"{load[key]:.1f}" for key in ("p50_ms_without", "p50_ms_with")]
        difference = f"{100 * load['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
        rate = f"{name}: {load['requests_per_s']:.0f} requests/s"
        rows.append([rate, f"{load['compared'] / load['requests']:.0%}", *met, difference, *p50])
    header = [
        "load",
        "compared",
        "in time without",
        "with shadow",
        "difference in points, 95%",
        "p50 ms without",
        "with",
    ]
    runs = f"{settings['rounds']} rounds of {settings['seconds']:g} s each way, in turn"
    sizes = f"{settings['documents']} documents of about {settings['tokens']} tokens, {settings['budget_ms']:g} ms"
    return f"{markdown(header, rows)}\n\n{conditions(figures['measured'], runs, sizes)}."


FIGURES: dict[str, Callable[[], str]] = {"experiments": experiments, "experiment-walk": walk, "shadow": shadow}
