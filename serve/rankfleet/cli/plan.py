"""`rankfleet plan`: the plan that the router would choose for a request, or has chosen, and why. Needs no cluster."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rankfleet.bench.tables import terminal
from rankfleet.cli import app, out
from rankfleet.cli.options import ConfigOption, load_config, pick_tier
from rankfleet.core.errors import ConfigError
from rankfleet.core.messages import Decision, Plan, Refusal
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.profile import read_profile
from rankfleet.router.decision_log import LoggedDecision, parse_line
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Entry, Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan as decide


@app.command()
def plan(
    config: ConfigOption = "sim-fleet",
    candidates: Annotated[int, typer.Option(min=1, help="number of documents in the request")] = 100,
    tokens: Annotated[int, typer.Option(min=1, help="tokens per pair, query included")] = 154,
    slo_ms: Annotated[float | None, typer.Option(min=0, help="budget in milliseconds; default: none")] = None,
    min_quality: Annotated[float, typer.Option(min=0, max=1, help="lowest nDCG@10 that is accepted")] = 0.0,
    model: Annotated[str | None, typer.Option(help="tier that has to answer; default: any")] = None,
    backlog_ms: Annotated[
        float, typer.Option(min=0, help="work ahead of the request at each replica, in milliseconds")
    ] = 0.0,
    when_none_fits: Annotated[
        str, typer.Option(help="what happens if no plan meets the budget: degrade or refuse")
    ] = "degrade",
    profile: Annotated[str | None, typer.Option(help="latency profile; default: that of the fleet file")] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="file of decisions (`decision_log` in the fleet file) to decide again from the same facts"),
    ] = None,
    request: Annotated[
        str | None, typer.Option(help="with --replay: explain the decisions of this request id; default: the last")
    ] = None,
) -> None:
    """Show every plan for a request with its predicted time and quality, and why it is chosen or not."""
    if replay is not None:
        show_replayed(replay, request)
        return
    fleet = load_config(config)
    stored = profile or fleet.profile
    if stored is None:
        raise ConfigError(f"{config} names no latency profile; measure one with `rankfleet profile` and give --profile")
    if when_none_fits not in ("degrade", "refuse"):
        raise ConfigError(f"--when-none-fits must be degrade or refuse, not {when_none_fits!r}")
    if model is not None:
        pick_tier(fleet, model)
    ledgers = {name: Ledger() for name in fleet.groups}
    view = FleetView(fleet, ledgers)
    view.update_latency(read_profile(stored))
    lengths = {
        name: Lengths(np.full(candidates, min(tokens, tier.max_tokens or tokens)))
        for name, tier in fleet.tiers.items()
        if model in (None, name)
    }
    ask = PlanRequest(
        {name: each.work for name, each in lengths.items()},
        0.0,
        slo_ms,
        "name" if model else None,
        when_none_fits,  # type: ignore[arg-type]
        min_quality,
        lengths,
        max_stages=2,
    )
    for name, ledger in ledgers.items():
        ledger.open(Entry(backlog_ms * view.replicas(name, 0.0), deadline_s=0.0, sent_s=0.0), 0.0)
    show(decide(ask, view.snapshot(0.0), 0.0))


def show_replayed(path: Path, request_id: str | None) -> None:
    """Decide again for every line of a file, and explain one request. Exits with 1 if a decision is another one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    logged = [numbered(number, line, path) for number, line in enumerate(lines, start=1)]
    chosen = [each for each in logged if each.request_id == request_id] if request_id is not None else logged[-1:]
    if not chosen:
        raise ConfigError(f"{path} has no decision {f'for request {request_id}' if request_id else 'at all'}")
    for each in chosen:
        out.print(f"request {each.request_id or 'without id'}", markup=False)
        show(each.replayed())
    same = sum(each.is_same(each.replayed()) for each in logged)
    out.print(f"decided again: {same} of {len(logged)} decisions are the same as logged")
    if same < len(logged):
        raise typer.Exit(1)


def numbered(number: int, line: str, path: Path) -> LoggedDecision:
    """A line of a file, whose errors say where it stands."""
    try:
        return parse_line(line)
    except ConfigError as error:
        raise ConfigError(f"{path}, line {number}: {error}") from error


def show(decision: Decision) -> None:
    """The options that were considered, and the reason."""
    rows = [
        (
            ": ".join(part for part in (option.tier, option.how) if part),
            f"{option.predicted_ms:.1f}",
            f"{option.quality:.4f}",
            option.verdict,
        )
        for option in decision.considered
    ]
    header = ("plan", "predicted p99 ms", "nDCG@10", "verdict")
    out.print(terminal(header, rows, emphasis=lambda row: row[-1] == "chosen"))
    out.print(decision.reason, soft_wrap=True)
    if isinstance(decision, Refusal):
        again = f"429, Retry-After {decision.retry_after_s:.2f} s" if decision.cause == "load" else "422"
        out.print(f"refused with {again}")
    elif isinstance(decision, Plan) and len(tiers := decision.stages[0].tiers) > 1:
        out.print(f"the replica may still choose among {', '.join(tiers)} when the request leaves its queue")
