"""`rankfleet experiment report` and `plan`: what became of an experiment, and how many requests one needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import err, out
from rankfleet.cli.experiment import experiment_app
from rankfleet.cli.options import ConfigOption, load_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.experiments import Experiment

NameArgument = Annotated[str, typer.Argument(help="name of the experiment in the fleet file")]
EventsOption = Annotated[
    str | None, typer.Option(help="folder of the events, or an fsspec URL; default: `events.folder` of the fleet file")
]
SECONDS_A_DAY = 86_400.0


@dataclass
class Shown:
    """A report to print and to write: verdicts by kind, tables, notes, and the figures as plain data."""

    verdicts: list[tuple[str, str]]
    tables: list[tuple[list[str], list[list[str]]]]
    notes: list[str]
    figures: dict[str, Any]


@experiment_app.command()
def report(
    name: NameArgument,
    config: ConfigOption = "demo",
    events: EventsOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="file to write the report to")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw the differences to")] = None,
) -> None:
    """Compare the arms of an experiment with its control, by the events that routers wrote.

    Look as often as you like: all differences together hold with 95% confidence at every look.
    """
    from rankfleet.bench.results import measured, write_results
    from rankfleet.bench.tables import markdown, terminal

    fleet = load_config(config)
    experiment = experiment_of(fleet, name)
    with err.status("reading events"):
        if experiment.mode == "shadow":
            shown = shadow_report(name, folder_of(fleet, events), plot)
        else:
            shown = split_report(name, experiment, folder_of(fleet, events), plot)
    for header, rows in shown.tables:
        out.print(terminal(header, rows), "")
    for note in shown.notes:
        out.print(note, markup=False, highlight=False, soft_wrap=True)
    for kind, text in shown.verdicts:
        style = {"ship": "bold green", "not yet": "bold"}.get(kind, "bold red")
        out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        write_results(json_file, shown.figures, measured())
    if markdown_file is not None:
        parts = [f"# {name}", *(text for _, text in shown.verdicts)]
        parts += [markdown(header, rows) for header, rows in shown.tables] + shown.notes
        markdown_file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def split_report(name: str, experiment: Experiment, folder: str, plot: Path | None) -> Shown:
    """The report of arms that answer. plot: file to draw it to."""
    from rankfleet.experiments.picture import draw
    from rankfleet.experiments.report import report_of, to_json
    from rankfleet.experiments.requests import read_requests
    from rankfleet.experiments.store import open_store
    from rankfleet.experiments.words import comparison_table, notes, traffic_table, verdicts

    found = report_of(name, experiment, read_requests(open_store(folder), name, tuple(experiment.arms)))
    if plot is not None:
        draw(found, plot)
    advice = verdicts(found)
    tables = [traffic_table(found), *([comparison_table(found)] if found.comparisons else [])]
    figures = to_json(found) | {"verdicts": [vars(each) for each in advice]}
    return Shown([(each.kind, each.text) for each in advice], tables, [*notes(found)], figures)


def shadow_report(name: str, folder: str, plot: Path | None) -> Shown:
    """The report of arms whose answers are only compared. Raises ConfigError if a picture is asked for."""
    from rankfleet.experiments.shadow_report import (
        EXPLAINED,
        agreement_table,
        agreements,
        differing_table,
        most_different,
    )
    from rankfleet.experiments.store import open_store

    if plot is not None:
        raise ConfigError("--plot draws differences between arms that answer; those of a shadow experiment do not")
    store = open_store(folder)
    every, listed = agreements(store, name), most_different(store, name)
    figures = {"arms": [vars(each) for each in every], "most_different": [vars(each) for each in listed]}
    return Shown([], [agreement_table(every), differing_table(listed)], [EXPLAINED], figures)


@experiment_app.command("plan")
def plan_experiment(
    name: NameArgument,
    config: ConfigOption = "demo",
    events: EventsOption = None,
    share: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="share of the arm; default: that of the last step")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
) -> None:
    """Say how many requests it takes to find a difference of each margin's size, or to rule it out.

    Simulates experiments on the events of the control arm: with the units that you have, and all that each sends.
    """
    import numpy as np

    from rankfleet.bench.results import measured, write_results
    from rankfleet.bench.tables import terminal
    from rankfleet.experiments.measures import margins_of
    from rankfleet.experiments.needed import POWER, need_of
    from rankfleet.experiments.requests import read_requests
    from rankfleet.experiments.store import open_store

    fleet = load_config(config)
    experiment = experiment_of(fleet, name)
    requests = read_requests(open_store(folder_of(fleet, events)), name, tuple(experiment.arms))
    control = experiment.control_arm
    recorded = requests.where(requests.arms == requests.arm_names.index(control))
    if not len(recorded):
        raise ConfigError(f"there are no events of arm {control} yet; run the experiment with {control} alone first")
    margins = {
        measure: margin
        for measure, margin in margins_of(experiment).items()
        if not np.isnan(recorded.values(measure)).all()
    }
    others = max(1, len(experiment.arms) - 1)
    if share is None:
        last = [*experiment.all_weights()][-1]
        share = (1 - last[control] / sum(last.values())) / others or 0.5
    rng = np.random.default_rng(1)
    needs = []
    for measure, margin in margins.items():
        with err.status(f"simulating experiments: {measure.title}"):
            # The report compares latency too.
            needs.append(need_of(recorded, measure, margin, share, (len(margins) + 1) * others, rng))
    per_day = len(recorded) / max(1.0, float(recorded.at.max() - recorded.at.min())) * SECONDS_A_DAY
    rows = []
    for need in needs:
        days = "" if need.requests is None else duration(need.requests / per_day * SECONDS_A_DAY)
        count = "too many" if need.requests is None else f"{need.requests:,}"
        rows.append([need.measure.title, need.measure.shown(need.value), need.measure.shown(need.margin), count, days])
    out.print(terminal(["measure", control, "margin", "requests", "at this rate"], rows))
    out.print(
        f"Requests of {control} and an arm of {share:.0%} together. If the arm is no different, or better by the "
        f"margin, that shows in {POWER:.0%} of all experiments by then.",
        highlight=False,
        soft_wrap=True,
    )
    if json_file is not None:
        figures = {
            need.measure.name: {"value": need.value, "margin": need.margin, "requests": need.requests} for need in needs
        }
        settings = {"experiment": name, "share": share, "power": POWER, "requests_per_day": per_day}
        write_results(json_file, settings | {"measures": figures}, measured())


def duration(seconds: float) -> str:
    """In the largest unit of which it is at least two: `3.5 days`."""
    for unit, length in (("days", SECONDS_A_DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def experiment_of(fleet: FleetConfig, name: str) -> Experiment:
    """Raises ConfigError, which lists the experiments there are."""
    if name not in fleet.experiments:
        there = ", ".join(fleet.experiments) or "none"
        raise ConfigError(f"there is no experiment {name!r} in the fleet file; there are: {there}")
    return fleet.experiments[name]


def folder_of(fleet: FleetConfig, events: str | None) -> str:
    """Raises ConfigError if nobody says where the events are."""
    folder = events or fleet.events.folder
    if folder is None:
        raise ConfigError("the fleet file has no `events.folder`; set it, or name the folder with --events")
    return folder
