"""`rankfleet evaluate --judge`: how far tiers agree with the strongest, where there are no judgements."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from rankfleet.cli import err, out
from rankfleet.cli.options import pick_tier
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError, InvalidRequest, RankfleetError

SIDE_BY_SIDE = 10  # queries on the page


def compare_with_judge(
    fleet: FleetConfig,
    names: list[str],
    judge: str,
    data: list[Path],
    queries_file: Path | None,
    top_k: int,
    dtype: str | None,
    page_file: Path,
    json_file: Path | None,
) -> None:
    """Print the agreement of each tier with the judge, and write the queries on which they differ most as a page.

    judge: a tier, or the URL of a Rankfleet server, with #TIER behind it or its best tier. data: one folder of
    documents. queries_file: None for `queries.txt` in it.
    """
    from rankfleet.bench.results import measured, write_results
    from rankfleet.bench.tables import terminal
    from rankfleet.evaluate import best_first
    from rankfleet.evaluate.agreement import MEASURES, agreements, means, most_different
    from rankfleet.evaluate.agreement_page import page
    from rankfleet.retrieval.bm25 import Bm25Index
    from rankfleet.retrieval.loose_texts import read_loose_documents, read_queries

    if len(data) > 1:
        raise ConfigError("--judge: give one --data, a folder of documents")
    if "://" not in judge:
        pick_tier(fleet, judge)
    file = queries_file or data[0] / "queries.txt"
    queries = read_queries(file)
    index = Bm25Index.build(read_loose_documents(data[0], file))
    candidates = {query: hits for query, text in queries.items() if (hits := index.search(text, top_k))}
    if not candidates:
        raise InvalidRequest(f"no document of {data[0]} shares a word with a query of {file}")
    tiers = [name for name in names if name != judge]
    orders = {"bm25": {query: np.arange(len(hits)) for query, hits in candidates.items()}}
    with Progress(console=err, transient=True) as bar:
        for name in (*tiers, judge):
            ranker, task = loaded(fleet, name, dtype), bar.add_task(name, total=len(candidates))
            orders[name] = {}
            for query, hits in candidates.items():
                logits = ranker.score(queries[query], [hit.text for hit in hits])
                if not np.isfinite(logits).all():
                    raise RankfleetError(f"{name} gave scores that are not finite for the query {queries[query]!r}")
                orders[name][query] = best_first(logits)
                bar.advance(task)
    found = agreements(orders, judge)
    figures = means(found)
    rows = [[name, *(f"{own[each]:.3f}" for each in MEASURES)] for name, own in figures.items()]
    out.print(terminal(["", *MEASURES], rows, title=f"agreement with {judge}, {len(candidates)} queries"))
    if len(candidates) < len(queries):
        out.print(f"queries without candidates, left out: {len(queries) - len(candidates)}")
    shown = most_different(found, tiers or ["bm25"], SIDE_BY_SIDE)
    used = {query: queries[query] for query in candidates}
    page_file.write_text(page(figures, used, shown, candidates, orders, judge), encoding="utf-8")
    out.print(f"side by side in {page_file}", soft_wrap=True)
    if json_file is not None:
        by_query: Mapping[str, Any] = {
            name: {query: {key: round(value, 5) for key, value in each.items()} for query, each in own.items()}
            for name, own in found.items()
        }
        result = {"judge": judge, "queries": used, "agreement": figures, "by_query": by_query}
        write_results(json_file, result, measured(packages=("bm25s",)))


def loaded(fleet: FleetConfig, name: str, dtype: str | None) -> Any:
    """What scores: a tier here, or that of a server. Raises UnknownModel for another name."""
    if "://" in name:
        from rankfleet.distill.teacher import ServerTeacher

        return ServerTeacher(name).load()
    import torch

    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.scorer import Reranker

    tier, group = pick_tier(fleet, name), fleet.groups[fleet.group_of(name)]
    torch.set_num_threads(group.threads)
    return Reranker.load(find_checkpoint(tier.model, tier.revision), dtype or group.dtype, max_tokens=tier.max_tokens)
