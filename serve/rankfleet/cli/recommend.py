"""`rankfleet recommend`: which tier or cascade is enough."""

from pathlib import Path
from typing import Annotated

import typer

from rankfleet.cli import app, err, out
from rankfleet.cli.options import load_config, pick_tier
from rankfleet.core.errors import ConfigError


@app.command()
def recommend(
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="figures that `rankfleet evaluate --json` wrote; default: published ones"),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="fleet file of the tiers; default: demo, or gpu for published figures"),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="latency models that `rankfleet profile --json` wrote; default: those of the fleet file"),
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(min=0, max=1, help="nDCG@10 that may be lost against the best; default: 0.01")
    ] = None,
    target_ndcg: Annotated[
        float | None, typer.Option(min=0, max=1, help="nDCG@10 that has to be reached, in place of --max-loss")
    ] = None,
    slo_ms: Annotated[float | None, typer.Option(min=1, help="latency budget of a request in milliseconds")] = None,
    qps: Annotated[float | None, typer.Option(min=0.001, help="requests per second, to find the replicas for")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="documents of a request; default: as many as were evaluated")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="tokens per pair, query included")] = 154,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw quality against device time to")] = None,
    write: Annotated[
        Path | None, typer.Option(help="new fleet file that runs the choice, with a quality table beside it")
    ] = None,
) -> None:
    """Choose the cheapest tier or cascade that is shown to lose no more than is allowed against the best.

    Losses are paired, query by query, and the choice holds with 95% confidence. Where queries are too few to tell, it
    says how many would do.
    """
    from rankfleet.bench.results import measured, write_json, write_results
    from rankfleet.bench.tables import terminal
    from rankfleet.estimates.profile import read_profile
    from rankfleet.recommend.choice import Goal, choose
    from rankfleet.recommend.figures import figures_of
    from rankfleet.recommend.fleet_file import chosen_fleet, table_beside, written
    from rankfleet.recommend.sizing import Traffic, size
    from rankfleet.recommend.words import Recommendation, table_of

    if max_loss is not None and target_ndcg is not None:
        raise ConfigError("give either --max-loss or --target-ndcg")
    if qps is not None and slo_ms is None:
        raise ConfigError("--qps needs --slo-ms: how many replicas it takes depends on how long a request may take")
    if write is not None and write.exists():
        raise ConfigError(f"--write: {write} exists; name a new file")
    fleet = load_config(config or ("gpu" if from_file is None else "demo"))
    figures, models = figures_of(from_file, fleet.ranked)
    if (stored := profile or fleet.profile) is not None:
        models = read_profile(stored)
    if slo_ms is not None and not models:
        raise ConfigError("--slo-ms needs --profile FILE; measure one with `rankfleet profile --json FILE`")
    documents = candidates or figures.top_k
    if models:
        batch_tokens = {tier: group.batch_tokens for group in fleet.groups.values() for tier in group.tiers}
        figures = figures.timed(models, documents, tokens, batch_tokens)
    goal = Goal(0.01 if max_loss is None else max_loss, target_ndcg, slo_ms)
    choice = choose(figures.options, goal)
    traffic, sizing = None, None
    if choice.chosen is not None:
        chosen = choice.chosen.option
        for tier in chosen.tiers if qps is not None or write is not None else ():
            pick_tier(fleet, tier)
        if qps is not None and slo_ms is not None:
            traffic = Traffic(qps, slo_ms, documents, tokens)
            with err.status("simulating"):
                sizing = size(fleet, models, chosen, traffic)
    recommendation = Recommendation(figures, choice, traffic, sizing)
    result = recommendation.to_json()
    header, rows = table_of(result["options"])
    out.print(terminal(header, rows, emphasis=lambda row: row[0] == result["recommended"]))
    out.print(result["paragraph"], markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        write_results(json_file, result, measured())
    if plot is not None:
        from rankfleet.recommend.picture import draw

        draw(result, plot)
    if write is not None:
        if choice.chosen is None or (traffic is not None and sizing is None):
            raise ConfigError("--write: nothing is written, because nothing meets the budget")
        replicas, table = None if sizing is None else sizing.replicas, table_beside(write)
        latency = None if profile is None else str(profile.resolve())
        settings = chosen_fleet(fleet, choice.chosen.option, figures.qualities, table.name, replicas, latency)
        write_json(table, {"data_sets": figures.data_sets})
        write.write_text(written(settings, result["paragraph"]), encoding="utf-8")
        out.print(f"written to {write}, with {table}; serve it:  rankfleet serve --config {write}", soft_wrap=True)
