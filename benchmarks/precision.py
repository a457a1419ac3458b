"""Compare rankings of the demo tiers in bfloat16 and int8 with those in float32.

    python -m benchmarks.precision --data DIR [--data DIR …] [--threads N] [--json benchmarks/results/precision.json]

DIR is a collection in BEIR layout; BM25's top 100 are reranked. For each tier and precision: nDCG@10 on each
collection and its mean, its difference from float32, and Kendall's τ between the scores of a query's candidates, as the
mean over all queries and at worst. With --json, the differences also go into the models' folders
(`precision_costs.json`), where `dtype: auto` and `fastest` read them.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.contest.report import kendall_tau

from rankfleet.bench.machine import cpu_instructions
from rankfleet.bench.results import measured, write_json, write_results
from rankfleet.engine.checkpoint.files import PRECISION_COSTS, find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.evaluate import measure_run, ranked_run, retrieve
from rankfleet.retrieval.bm25 import Bm25Index, Hit
from rankfleet.retrieval.corpus import Judged, read_documents, read_judged

DTYPES = ("float32", "bfloat16", "int8")
TOP_K = 100


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rerankers = {
        tier: {dtype: Reranker.load(find_checkpoint(f"demo/{tier}"), dtype, "cpu") for dtype in DTYPES}
        for tier in options.tiers.split(",")
    }
    tiers: dict[str, Any] = {tier: {dtype: {"ndcg@10": {}} for dtype in DTYPES} for tier in rerankers}
    taus: dict[tuple[str, str], list[float]] = {}
    for folder in options.data:
        judged = read_judged(folder)
        candidates = retrieve(Bm25Index.build(read_documents(folder)), judged, TOP_K)
        for tier, by_dtype in rerankers.items():
            logits = {dtype: score(reranker, judged, candidates) for dtype, reranker in by_dtype.items()}
            for dtype, scored in logits.items():
                order = {
                    query: [candidates[query][i].id for i in np.argsort(-values, kind="stable")]
                    for query, values in scored.items()
                }
                ndcg = measure_run(ranked_run(order), judged.qrels).ndcg_10
                tiers[tier][dtype]["ndcg@10"][folder.name] = round(ndcg, 5)
                exact = logits["float32"]
                taus.setdefault((tier, dtype), []).extend(
                    kendall_tau(values, exact[query]) for query, values in scored.items() if len(values) > 1
                )
    for tier, by_dtype in tiers.items():
        for dtype, figures in by_dtype.items():
            of_float = np.mean(list(by_dtype["float32"]["ndcg@10"].values()))
            figures["mean"] = round(float(np.mean(list(figures["ndcg@10"].values()))), 5)
            figures["difference"] = round(float(figures["mean"] - of_float), 5)
            figures["tau"] = round(float(np.mean(taus[tier, dtype])), 5)
            figures["worst_tau"] = round(float(np.min(taus[tier, dtype])), 5)
            print(
                f"{tier:8} {dtype:9} nDCG@10 {figures['mean']:.4f} ({figures['difference']:+.4f})  "
                f"τ {figures['tau']:.4f}, at worst {figures['worst_tau']:.4f}"
            )
    if options.json is not None:
        about = measured(packages=("ir-measures", "bm25s")) | {
            "instructions": cpu_instructions(),
            "threads": options.threads,
            "queries": len(taus[next(iter(taus))]),
            "top_k": TOP_K,
        }
        write_results(options.json, {"tiers": tiers}, about)
        for tier, by_dtype in tiers.items():
            costs = {dtype: 0.0 - by_dtype[dtype]["difference"] for dtype in DTYPES[1:]}
            write_json(find_checkpoint(f"demo/{tier}").folder / PRECISION_COSTS, costs)


def score(reranker: Reranker, judged: Judged, candidates: dict[str, list[Hit]]) -> dict[str, np.ndarray]:
    """Raw logits of each query's candidates."""
    return {
        query: reranker.score(judged.queries[query], [hit.text for hit in hits])
        for query, hits in candidates.items()
        if hits
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="collection in BEIR layout")
    parser.add_argument("--tiers", default="small,medium,large", help="demo tiers (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
