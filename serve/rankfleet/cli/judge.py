"""`rankfleet evaluate --judge`: how far tiers agree with the strongest, where there are no judgements."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.cli import err, out
from rankfleet.cli.evaluation import kept_beside, score_all
from rankfleet.cli.options import pick_tier
from rankfleet.core.config import FleetConfig
from rankfleet.core.cpus import usable_cpus
from rankfleet.core.errors import ConfigError, InvalidRequest

SIDE_BY_SIDE = 10  # queries on the page


def compare_with_judge(
    fleet: FleetConfig,
    names: list[str],
    judge: str,
    data: list[Path],
    queries_file: Path | None,
    top_k: int,
    dtype: str | None,
    threads: int | None,
    page_file: Path,
    json_file: Path | None,
) -> None:
    """Print the agreement of each tier with the judge, and write the queries on which they differ most as a page.

    judge: a tier, or another reranker as `--against` names it. data: one folder of documents. queries_file: None for
    `queries.txt` in it. dtype, threads: None for those of a tier's group.
    """
    from rankfleet.bench.results import measured, write_results
    from rankfleet.bench.tables import terminal
    from rankfleet.evaluate import best_first
    from rankfleet.evaluate.against import parse_against
    from rankfleet.evaluate.agreement import MEASURES, agreements, means, most_different
    from rankfleet.evaluate.agreement_page import page
    from rankfleet.evaluate.kept_scores import KeptScores, Question
    from rankfleet.evaluate.rivals import rival_of
    from rankfleet.evaluate.scoring import gather
    from rankfleet.evaluate.tiers import LoadedTiers
    from rankfleet.retrieval.bm25 import Bm25Index
    from rankfleet.retrieval.loose_texts import read_loose_documents, read_queries

    if len(data) > 1:
        raise ConfigError("--judge: give one --data, a folder of documents")
    rival = parse_against(judge, os.environ) if ":" in judge else None
    if rival is None:
        pick_tier(fleet, judge)
    elif rival.name in names:
        raise ConfigError(f"--judge: a tier is called {rival.name}, too; name another with name=")
    file = queries_file or data[0] / "queries.txt"
    queries = read_queries(file)
    index = Bm25Index.build(read_loose_documents(data[0], file))
    candidates = {query: hits for query, text in queries.items() if (hits := index.search(text, top_k))}
    if not candidates:
        raise InvalidRequest(f"no document of {data[0]} shares a word with a query of {file}")
    questions = [Question(data[0].resolve().name, query, queries[query], hits) for query, hits in candidates.items()]
    tiers = [name for name in names if name != judge]
    kept = KeptScores(kept_beside(json_file))
    with ExitStack() as open:
        with err.status("loading"):
            loaded = LoadedTiers(fleet, [*tiers, *([] if rival else [judge])], dtype, threads, kept)
            others = [rival_of(rival, threads or usable_cpus(), os.environ, open)] if rival else []
        score_all([*loaded.rankers, *others], questions, kept, loaded.together)
    judge = rival.name if rival else judge
    scored = {name: gather(name, questions, kept) for name in (*tiers, judge)}
    orders = {"bm25": {query: np.arange(len(hits)) for query, hits in candidates.items()}}
    orders |= {
        name: {query: best_first(logits) for query, logits in own.logits.items()} for name, own in scored.items()
    }
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
        p50_ms = {name: float(np.median(own.times_ms)) for name, own in scored.items() if name in fleet.tiers}
        result = judged_by(judge, found, figures, p50_ms)
        result |= {"data": data[0].resolve().name, "top_k": top_k, "texts": used}
        write_results(json_file, result, measured(packages=("bm25s",)))


def judged_by(
    judge: str,
    found: Mapping[str, Mapping[str, Mapping[str, float]]],
    figures: Mapping[str, Mapping[str, Any]],
    p50_ms: Mapping[str, float],
) -> dict[str, Any]:
    """The figures as `rankfleet evaluate --json` writes them, so that `recommend` reads them: nDCG@10 is that with the
    judge's order as truth, and a judge that is a tier agrees with itself. p50_ms: of each tier, for one query."""
    values = {name: [each["ndcg@10"] for each in own.values()] for name, own in found.items()}
    count = len(values["bm25"])
    whole = {"ndcg@10": 1.0, "overlap@10": 1.0, "tau": 1.0, "interval": [1.0, 1.0]}
    tiers = {name: {**figures.get(name, whole), "p50_ms": round(ms, 3)} for name, ms in p50_ms.items()}
    alone = {name: [round(value, 5) for value in values.get(name, [1.0] * count)] for name in tiers}
    own = {"retriever": figures["bm25"]["ndcg@10"], "tiers": {name: each["ndcg@10"] for name, each in tiers.items()}}
    return {
        "judge": judge,
        "queries": count,
        "retriever": {"name": "bm25", **figures["bm25"]},
        "tiers": tiers,
        "by_query": {"retriever": [round(value, 5) for value in values["bm25"]], "alone": alone},
        "data_sets": {f"agreement with {judge}": own},
    }
