"""`rankfleet evaluate`: quality and latency of each tier on your own data."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress

from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config, pick_tier
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError

STEPS = (5, 10, 20, 30, 40, 50)  # numbers of candidates that a tier scores, besides all
PACKAGES = ("bm25s", "ir-measures")  # whose versions can change a figure


@app.command()
def evaluate(
    data: Annotated[list[Path], typer.Option(help="data set as a BEIR folder; repeat for several")],
    config: ConfigOption = "demo",
    retriever: Annotated[Literal["bm25"], typer.Option(help="first stage")] = "bm25",
    top_k: Annotated[int, typer.Option(min=1, help="candidates that are reranked per query")] = 100,
    tiers: Annotated[str | None, typer.Option(help="tiers, comma-separated; default: all")] = None,
    dtype: Annotated[str | None, typer.Option(help="precision; default: that of the tier's group")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="use only this many queries, from the first")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: those of the tier's group")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="file to write nDCG@10 by depth and cascade to, for `quality.table` of a fleet file"),
    ] = None,
) -> None:
    """Measure nDCG@10, MRR@10 and latency of each tier on judged queries."""
    from rankfleet.bench.results import measured, write_json, write_results
    from rankfleet.evaluate import check_installed, mean_of, mean_of_steps

    check_installed()
    fleet = load_config(config)
    names = tiers.split(",") if tiers else list(fleet.tiers)
    for name in names:
        pick_tier(fleet, name)
    called = [folder.resolve().name for folder in data]
    if again := sorted({name for name in called if called.count(name) > 1}):
        raise ConfigError(f"--data: two folders are called {', '.join(again)}; data sets need different names")
    collections = [evaluate_folder(fleet, folder, retriever, top_k, names, dtype, queries, threads) for folder in data]
    steps = {collection["data"]: collection.pop("steps") for collection in collections}
    for collection in collections:
        show(collection["data"], collection)
    result: dict[str, Any] = collections[0]
    if len(collections) > 1:
        result = {"collections": collections, "mean": mean_of(collections)}
        steps = {"mean": mean_of_steps(list(steps.values())), **steps}
        show(f"mean of {len(collections)}", result["mean"])
    if json_file is not None:
        import torch

        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        write_results(json_file, result, measured(machine, PACKAGES))
    if table is not None:
        write_json(table, {"data_sets": steps})
        out.print(f"written to {table}; name it in the fleet file:  quality: {{table: {table}}}", soft_wrap=True)


def evaluate_folder(
    fleet: FleetConfig,
    folder: Path,
    retriever: str,
    top_k: int,
    names: list[str],
    dtype: str | None,
    limit: int | None,
    threads: int | None,
) -> dict[str, Any]:
    """Figures of all tiers on one data set, as the JSON object that is written."""
    import torch

    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.scorer import Reranker
    from rankfleet.evaluate import (
        ScoredCandidates,
        evaluate_retriever,
        figures_of,
        quality_steps,
        retrieve,
        score_candidates,
    )
    from rankfleet.retrieval.bm25 import Bm25Index
    from rankfleet.retrieval.corpus import Judged, read_documents, read_judged

    judged = read_judged(folder)
    if limit is not None:
        kept = list(judged.queries)[:limit]
        judged = Judged({q: judged.queries[q] for q in kept}, {q: judged.qrels[q] for q in kept})
    with err.status(f"indexing {folder.name}"):
        index = Bm25Index.build(read_documents(folder))
        candidates = retrieve(index, judged, top_k)
    results: dict[str, ScoredCandidates] = {}
    dtypes: dict[str, None] = {}
    with Progress(console=err, transient=True) as bar:
        for name in names:
            task = bar.add_task(f"{folder.name}: {name}", total=len(judged.queries))
            tier, group = fleet.tiers[name], fleet.groups[fleet.group_of(name)]
            torch.set_num_threads(threads or group.threads)
            checkpoint = find_checkpoint(tier.model, tier.revision)
            reranker = Reranker.load(checkpoint, dtype or group.dtype, max_tokens=tier.max_tokens)
            dtypes[reranker.scorer.dtype] = None
            reranker.score("warm up", ["a first batch"])
            results[name] = score_candidates(reranker, judged, candidates, lambda t=task: bar.advance(t))  # type: ignore[misc]
    return {
        "data": folder.resolve().name,
        "queries": len(judged.queries),
        "documents": len(index),
        "top_k": top_k,
        "retriever": evaluate_retriever(judged, candidates),
        "tiers": {name: figures_of(result, judged, candidates) for name, result in results.items()},
        "steps": quality_steps(results, judged, candidates, STEPS),
        "threads": torch.get_num_threads(),
        "dtype": ", ".join(dtypes),
    }


def show(title: str, figures: dict[str, Any]) -> None:
    """Print one row for the retriever's order and one for each tier."""
    from rankfleet.bench.tables import Column, figures_table

    columns = [
        Column("ndcg@10", ".4f", "nDCG@10"),
        Column("mrr@10", ".4f", "MRR@10"),
        Column("p50_ms", ".1f"),
        Column("p95_ms", ".1f"),
    ]
    out.print(
        figures_table({figures["retriever"]["name"]: figures["retriever"]} | figures["tiers"], columns, title=title)
    )
