"""`rankfleet plan`: the plan that the router would choose for a request, or has chosen, and why. Needs no cluster."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rankfleet.bench.tables import terminal
from rankfleet.cli import app, out, progress
from rankfleet.cli.options import ConfigOption, load_config, pick_tier
from rankfleet.core.decisions import Decision, Plan, Refusal
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.profile import read_profile
from rankfleet.router.decision_log import LoggedDecision, parse_line
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import MAX_STAGES, PlanRequest, ahead_of
from rankfleet.router.planner import plan as decide
from rankfleet.router.replica_record import Entry

MAX_EXPLAINED = 10  # decisions with one request id, which a client may use again
MAX_NAMED = 5  # requests that are named whose decisions differ


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
        str | None,
        typer.Option(help="with --replay: only the decisions of this request id; default: all, the last one explained"),
    ] = None,
) -> None:
    """Show every plan for a request with its predicted time and quality, and why it is chosen or not."""
    if replay is not None:
        replay_file(replay, request)
        return
    if request is not None:
        raise ConfigError("--request needs --replay FILE, a file of logged decisions")
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
        max_stages=MAX_STAGES,
    )
    for name, ledger in ledgers.items():
        ledger.open(Entry(backlog_ms * view.replicas(name, 0.0), deadline_s=0.0, sent_s=0.0), 0.0)
    show(decide(ask, view.snapshot(0.0), 0.0))


def replay_file(path: Path, request_id: str | None) -> None:
    """Decide again for each line of a file, or for those of one request, and explain the last; for one request, all.

    Exits with 1 if a decision is not the one that was logged.
    """
    count, different = 0, list[str]()
    explained: deque[LoggedDecision] = deque(maxlen=1 if request_id is None else MAX_EXPLAINED)
    with progress(f"deciding again for {path}") as report:
        for logged in read_decisions(path):
            if request_id is None or request_id == logged.request_id:
                count += 1
                explained.append(logged)
                if logged.differences(logged.replayed()):
                    different.append(logged.request_id)
                if count % 10_000 == 0:
                    report(f"{count:,} decisions")
    if not explained:
        raise ConfigError(f"{path} has no decision" + (f" for request {request_id}" if request_id is not None else ""))
    for logged in explained:
        explain(logged)
    out.print(f"replayed: {count - len(different):,} of {count:,} decisions are the same as logged")
    if different:
        more = f" and {len(different) - MAX_NAMED:,} more" if len(different) > MAX_NAMED else ""
        out.print(f"different: requests {', '.join(different[:MAX_NAMED])}{more}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def read_decisions(path: Path) -> Iterator[LoggedDecision]:
    """The lines of a file of decisions. Raises ConfigError, which names the line that is wrong."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield parse_line(line)
                except ConfigError as error:
                    raise ConfigError(f"{path}: line {number} {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def explain(logged: LoggedDecision) -> None:
    """What the router knew of the request and of each group, what it decided, and what it would decide now."""
    request, fleet, now_s = logged.request, logged.fleet, logged.now_s
    tokens = [work.tokens for work in request.work.values()]
    size = f"{min(tokens):,}" if min(tokens) == max(tokens) else f"{min(tokens):,} to {max(tokens):,} by tier"
    facts = [
        f"{request.documents:,} documents",
        f"{size} tokens" if request.lengths else f"at least {size} tokens",
        f"{(now_s - request.arrived_s) * 1e3:.1f} ms after arrival",
        "no budget" if request.budget_ms is None else f"budget {request.budget_ms:g} ms",
        f"{request.when_none_fits} if no plan fits",
    ]
    facts += [f"min_quality {request.min_quality:g}"] if request.min_quality else []
    out.print(f"request {logged.request_id}: {'; '.join(facts)}", markup=False, soft_wrap=True)
    if request.lengths is None:
        early = "decided before tokenizing: only a refusal counts, and one for the budget is answered with 429"
        out.print(early, soft_wrap=True)
    rows = [
        (
            name,
            "asleep" if group.asleep else str(group.replicas),
            f"{group.backlog_s * 1e3:.1f}",
            f"{ahead_of(request, fleet, name, now_s):.1f}",
            str(len(group.in_flight)),
            f"{group.arrivals.burst_rate_per_s(request.tokens):.1f}",
        )
        for name, group in fleet.groups.items()
    ]
    header = ("group", "ready replicas", "backlog ms", "wait ms", "chunks in flight", "burst arrivals/s")
    out.print(terminal(header, rows))
    decision = logged.replayed()
    show(decision)
    if different := logged.differences(decision):
        was = f"logged as {logged.decision['kind']}: {logged.decision['reason']}"
        out.print(f"{was} (other values of {', '.join(different)})", markup=False, soft_wrap=True)


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
        choices = f"the replica may still choose among {', '.join(tiers)} when the request leaves its queue"
        out.print(choices, soft_wrap=True)
