"""`rankfleet evaluate`: quality and latency of each tier on your own data."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rankfleet.cli import app, err, out
from rankfleet.cli.evaluation import Asked, score
from rankfleet.cli.evaluation_tables import show, show_calibration, show_fusion
from rankfleet.cli.options import ConfigOption, load_config, pick_tier
from rankfleet.core.errors import ConfigError

if TYPE_CHECKING:
    from rankfleet.evaluate import Collection, ScoredCandidates
    from rankfleet.evaluate.against import Price

PACKAGES = ("bm25s", "ir-measures", "sentence-transformers")  # whose versions can change a figure


@app.command()
def evaluate(
    data: Annotated[
        list[Path], typer.Option(help="folder of documents, queries and judgements, such as BEIR's; repeat for several")
    ],
    config: ConfigOption = "demo",
    split: Annotated[
        str | None, typer.Option(help="which judgements, where a folder has several; default: test, or the only ones")
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="run file with your retriever's candidates, in place of BM25's; one for each --data"),
    ] = None,
    retriever: Annotated[Literal["bm25"], typer.Option(help="first stage")] = "bm25",
    top_k: Annotated[int, typer.Option(min=1, help="candidates that are reranked per query")] = 100,
    tiers: Annotated[str | None, typer.Option(help="tiers, comma-separated; default: all")] = None,
    dtype: Annotated[str | None, typer.Option(help="precision; default: that of the tier's group")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="use only this many queries, from the first")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: those of the tier's group")] = None,
    fit_fusion: Annotated[
        bool,
        typer.Option(
            "--fit-fusion",
            help="fit the weights with which tiers are fused with the candidates' order, and write them to the table; "
            "figures of fused rankings are those of held-back queries",
        ),
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            help="compare with this tier, or another reranker as --against names it, where there are no judgements; "
            "--data is then a folder of text files or one of JSON lines"
        ),
    ] = None,
    queries_file: Annotated[
        Path | None, typer.Option(help="for --judge: one query a line; default: queries.txt in --data")
    ] = None,
    page: Annotated[Path, typer.Option(help="for --judge: HTML file to write rankings side by side to")] = Path(
        "agreement.html"
    ),
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="compare with FORMAT:URL#MODEL, cohere:MODEL, jina:MODEL, voyage:MODEL, sentence-transformers:MODEL "
            "or a Rankfleet server's URL; repeat for several"
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="draw queries at random until they tell which tiers are enough, at most this long"),
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(min=0, max=1, help="for --minutes: nDCG@10 that a tier may lose; default: 0.01")
    ] = None,
    usd_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="price of one replica's device; default: usd_per_hour of the tier's group"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="file to write nDCG@10 by depth and cascade to, for `quality.table` of a fleet file"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file to draw quality against time, and cost where prices are known, to")
    ] = None,
) -> None:
    """Measure nDCG@10, MRR@10, recall@10 and latency of each tier on judged queries.

    With --json, scores are kept beside that file, and the same command goes on where it was ended.
    """
    from rankfleet.bench.results import measured, write_json, write_results
    from rankfleet.evaluate import (
        FusionFit,
        by_query,
        calibrated,
        check_enough,
        check_installed,
        compare,
        data_sets,
        mean_of,
        reliability_of,
        tiers_compared,
        values_of,
    )
    from rankfleet.evaluate.against import Price, parse_against
    from rankfleet.evaluate.pareto import plans_of

    check_installed()
    fleet = load_config(config)
    names = tiers.split(",") if tiers else list(fleet.tiers)
    for name in names:
        pick_tier(fleet, name)
    if judge is not None:
        from rankfleet.cli.judge import compare_with_judge

        if against or run or minutes or fit_fusion or table or plot:
            without = "--against, --run, --minutes, --fit-fusion, --table and --plot"
            raise ConfigError(f"--judge compares orders where there are no judgements; leave {without} out")
        return compare_with_judge(fleet, names, judge, data, queries_file, top_k, dtype, threads, page, json_file)
    if max_loss is not None and minutes is None:
        raise ConfigError("--max-loss is what --minutes asks of the queries; `rankfleet recommend` has one of its own")
    others = [parse_against(spec, os.environ) for spec in against or ()]
    check_names("--data: two folders are called {}; data sets", [folder.resolve().name for folder in data])
    check_names("--against: two are called {}, as tiers or others are; they", [*names, *(each.name for each in others)])
    collections = read(data, run or [], top_k, queries, split)
    asked = Asked(fleet, names, others, dtype, threads, minutes, 0.01 if max_loss is None else max_loss)
    collections, conditions, sample = score(collections, asked, json_file)
    if fit_fusion:
        check_enough(collections)
    prices = {name: Price(per_hour=usd_per_hour or 0.0) for name in names}
    if usd_per_hour is None:
        prices = {name: Price(per_hour=fleet.groups[fleet.group_of(name)].usd_per_hour or 0.0) for name in names}
    prices |= {each.name: each.price for each in others}
    figures = [figures_by_tier(collection, prices) | {"top_k": top_k, **conditions} for collection in collections]
    fit = FusionFit.of(collections) if fit_fusion else None
    values = [values_of(collection, fit) for collection in collections]
    result: dict[str, Any] = figures[0]
    parts = [(figures[0]["data"], figures[0], values)]
    if len(collections) > 1:
        result = {"collections": figures, "mean": mean_of(figures)}
        parts = [(each["data"], each, [own]) for each, own in zip(figures, values, strict=True)]
        parts.append((f"mean of {len(collections)}", result["mean"], values))
    for title, part, measures in parts:
        part["compared"] = tiers_compared(measures, names, [each.name for each in others])
        part["plans"] = plans_of(measures, part, top_k)
        show(title, part)
    if fit is not None:
        result["weights"] = fit.weights()
        by_collection, mean = compare(values)
        for (title, part, _), fused in zip(parts, [*by_collection, mean], strict=False):
            part["fused"] = fused
            show_fusion(title, part["retriever"], fused)
    if sample is not None:
        result["sample"] = sample.to_json()
        out.print(str(sample), soft_wrap=True, highlight=False)
    reliability = result.get("mean", result)["calibration"] = reliability_of(collections, fit)
    show_calibration(reliability)
    tables = calibrated(data_sets(collections, fit), collections, fit) if json_file or table else {}
    if json_file is not None:
        import torch

        for each, collection, own in zip(figures, collections, values, strict=True):
            each["by_query"] = by_query(collection, own)
        result["data_sets"] = tables  # for `rankfleet recommend --write`
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        write_results(json_file, result, measured(machine, PACKAGES))
    if plot is not None:
        from rankfleet.evaluate.picture import draw

        title, part, _ = parts[-1]
        draw(f"{title}: quality against time", part, plot)
    if table is not None:
        write_json(table, {"data_sets": tables})
        out.print(f"written to {table}; name it in the fleet file:  quality: {{table: {table}}}", soft_wrap=True)


def check_names(problem: str, names: Sequence[str]) -> None:
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{problem.format(', '.join(again))} need different names")


def read(
    data: Sequence[Path], runs: Sequence[Path | None], top_k: int, queries: int | None, split: str | None
) -> "list[Collection]":
    """The collections, not scored yet; prints their notes."""
    from rankfleet.evaluate import Collection

    if runs and len(runs) != len(data):
        raise ConfigError(f"--run: {len(runs)} run files for {len(data)} data sets; give one for each, in their order")
    collections = []
    for folder, candidates in zip(data, runs or [None] * len(data), strict=True):
        with err.status(f"reading {folder.name}"):
            collections.append(Collection.read(folder, top_k, queries, split, candidates))
        for note in collections[-1].notes:
            err.print(f"{collections[-1].name}: {note}", highlight=False)
    return collections


def figures_by_tier(collection: "Collection", prices: "Mapping[str, Price]") -> dict[str, Any]:
    """Figures of all tiers on one data set, as in the JSON object that is written. prices: by name."""
    from rankfleet.evaluate import evaluate_retriever, figures_of

    judged, candidates = collection.judged, collection.candidates

    def figures(scored: "Mapping[str, ScoredCandidates]") -> dict[str, Any]:
        return {name: figures_of(result, judged, candidates, prices[name]) for name, result in scored.items()}

    return {
        "data": collection.name,
        "queries": len(judged.queries),
        "documents": collection.documents,
        "notes": list(collection.notes),
        "retriever": evaluate_retriever(judged, candidates, collection.retriever),
        "tiers": figures(collection.scored),
        "against": figures(collection.against),
    }
