"""`rankfleet evaluate`: quality and latency of each tier on your own data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress

from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config, pick_tier
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError

if TYPE_CHECKING:
    from rankfleet.evaluate import Collection, ScoredCandidates

PACKAGES = ("bm25s", "ir-measures")  # whose versions can change a figure


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
            help="compare with this tier, or a Rankfleet server's URL, where there are no judgements; --data is then a "
            "folder of text files or one of JSON lines"
        ),
    ] = None,
    queries_file: Annotated[
        Path | None, typer.Option(help="for --judge: one query a line; default: queries.txt in --data")
    ] = None,
    page: Annotated[Path, typer.Option(help="for --judge: HTML file to write rankings side by side to")] = Path(
        "agreement.html"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="file to write nDCG@10 by depth and cascade to, for `quality.table` of a fleet file"),
    ] = None,
) -> None:
    """Measure nDCG@10, MRR@10 and latency of each tier on judged queries."""
    from rankfleet.bench.results import measured, write_json, write_results
    from rankfleet.evaluate import (
        Collection,
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

    check_installed()
    fleet = load_config(config)
    names = tiers.split(",") if tiers else list(fleet.tiers)
    for name in names:
        pick_tier(fleet, name)
    if judge is not None:
        from rankfleet.cli.judge import compare_with_judge

        return compare_with_judge(fleet, names, judge, data, queries_file, top_k, dtype, page, json_file)
    called = [folder.resolve().name for folder in data]
    if again := sorted({name for name in called if called.count(name) > 1}):
        raise ConfigError(f"--data: two folders are called {', '.join(again)}; data sets need different names")
    if run and len(run) != len(data):
        raise ConfigError(f"--run: {len(run)} run files for {len(data)} data sets; give one for each, in their order")
    collections = []
    runs: Sequence[Path | None] = run or [None] * len(data)
    for folder, candidates in zip(data, runs, strict=True):
        with err.status(f"reading {folder.name}"):
            collections.append(Collection.read(folder, top_k, queries, split, candidates))
        for note in collections[-1].notes:
            err.print(f"{collections[-1].name}: {note}", highlight=False)
    if fit_fusion:
        check_enough(collections)
    collections, conditions = score(fleet, names, collections, dtype, threads)
    figures = [figures_by_tier(collection) | {"top_k": top_k, **conditions} for collection in collections]
    result: dict[str, Any] = figures[0]
    if len(collections) > 1:
        result = {"collections": figures, "mean": mean_of(figures)}
    fit = FusionFit.of(collections) if fit_fusion else None
    values = [values_of(collection, fit) for collection in collections]
    for each, own in zip(figures, values, strict=True):
        each["compared"] = tiers_compared([own], names)
        show(each["data"], each)
    if len(collections) > 1:
        result["mean"]["compared"] = tiers_compared(values, names)
        show(f"mean of {len(collections)}", result["mean"])
    if fit is not None:
        by_collection, mean = compare(values)
        for each, fused in zip(figures, by_collection, strict=True):
            each["fused"] = fused
            show_fusion(each["data"], each["retriever"], fused)
        if len(collections) > 1:
            result["mean"]["fused"] = mean
            show_fusion(f"mean of {len(collections)}", result["mean"]["retriever"], mean)
        result["weights"] = fit.weights()
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
    if table is not None:
        write_json(table, {"data_sets": tables})
        out.print(f"written to {table}; name it in the fleet file:  quality: {{table: {table}}}", soft_wrap=True)


def score(
    fleet: FleetConfig, names: list[str], collections: "list[Collection]", dtype: str | None, threads: int | None
) -> "tuple[list[Collection], dict[str, Any]]":
    """(the collections with the scores of these tiers, {"threads", "dtype"} they were scored with)."""
    import torch

    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.scorer import Reranker
    from rankfleet.evaluate import score_candidates

    scored: list[dict[str, ScoredCandidates]] = [{} for _ in collections]
    dtypes: dict[str, None] = {}
    with Progress(console=err, transient=True) as bar:
        for name in names:
            tier, group = fleet.tiers[name], fleet.groups[fleet.group_of(name)]
            torch.set_num_threads(threads or group.threads)
            checkpoint = find_checkpoint(tier.model, tier.revision)
            reranker = Reranker.load(checkpoint, dtype or group.dtype, max_tokens=tier.max_tokens)
            dtypes[reranker.scorer.dtype] = None
            reranker.score("warm up", ["a first batch"])
            for own, collection in zip(scored, collections, strict=True):
                task = bar.add_task(f"{name}: {collection.name}", total=len(collection.judged.queries))
                own[name] = score_candidates(
                    reranker,
                    collection.judged,
                    collection.candidates,
                    lambda t=task: bar.advance(t),  # type: ignore[misc]
                )
    whole = [replace(collection, scored=own) for collection, own in zip(collections, scored, strict=True)]
    return whole, {"threads": torch.get_num_threads(), "dtype": ", ".join(dtypes)}


def figures_by_tier(collection: "Collection") -> dict[str, Any]:
    """Figures of all tiers on one data set, as in the JSON object that is written."""
    from rankfleet.evaluate import evaluate_retriever, figures_of

    judged, candidates = collection.judged, collection.candidates
    return {
        "data": collection.name,
        "queries": len(judged.queries),
        "documents": collection.documents,
        "notes": list(collection.notes),
        "retriever": evaluate_retriever(judged, candidates, collection.retriever),
        "tiers": {name: figures_of(result, judged, candidates) for name, result in collection.scored.items()},
    }


def show(title: str, figures: dict[str, Any]) -> None:
    """Print one row for the retriever's order and one for each tier, with its differences from that order and from the
    best tier."""
    from rankfleet.bench.tables import Column, figures_table

    def told(tier: str) -> dict[str, str]:
        return {name: f"{less['mean']:+.4f}, p {less['p']:.3f}" for name, less in figures["compared"][tier].items()}

    name = figures["retriever"]["name"]
    columns = [
        Column("ndcg@10", ".4f", "nDCG@10"),
        Column("mrr@10", ".4f", "MRR@10"),
        Column("p50_ms", ".1f"),
        Column("p95_ms", ".1f"),
        Column("less_retriever", title=f"less {name}"),
        Column("less_best", title="less the best"),
    ]
    tiers = {tier: own | told(tier) for tier, own in figures["tiers"].items()}
    out.print(figures_table({name: figures["retriever"]} | tiers, columns, title=title))


def show_fusion(title: str, retriever: dict[str, Any], fused: dict[str, Any]) -> None:
    """Print one row for the retriever's order and one for each plan: alone, fused, and by how much that is better."""
    from rankfleet.bench.tables import terminal

    def gain(difference: dict[str, Any]) -> str:
        low, high = difference["interval"]
        return f"{difference['mean']:+.4f} ({low:+.3f} to {high:+.3f})"

    rows = [[retriever["name"], f"{retriever['ndcg@10']:.4f}"]]
    for plan, each in fused.items():
        order, scores = each["order"], each["scores"]
        gains = (order["less_retriever"], order["less_alone"], scores["less_order"])
        rows.append([plan, f"{each['alone']:.4f}", f"{order['ndcg@10']:.4f}", *map(gain, gains)])
    header = ["nDCG@10", "alone", "fused", f"less {retriever['name']}", "less alone", "more with scores"]
    out.print(terminal(header, rows, title=f"{title}: fused with the candidates' order, held-back queries"))


def show_calibration(reliability: dict[str, dict[str, Any]]) -> None:
    """Print how reliable each tier's `relevance_score` is, alone and fused, with the plain sigmoid's in brackets."""
    from rankfleet.bench.tables import terminal

    rows = [
        [
            tier if way == "alone" else f"{tier}, fused",
            *(f"{own[name]:.4f} ({own['plain'][name]:.4f})" for name in ("brier", "log_loss", "ece")),
        ]
        for way, by_tier in reliability.items()
        for tier, own in by_tier.items()
    ]
    if rows:
        header = ["relevance_score", "Brier score", "log-loss", "calibration error"]
        out.print(terminal(header, rows, title="calibrated (plain sigmoid), held-back queries"))
