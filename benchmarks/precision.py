"""Compare rankings of the demo tiers in bfloat16 and int8 with those in float32.

    python -m benchmarks.precision --data DIR [--data DIR …] [--threads N] [--json benchmarks/results/precision.json]

DIR is a collection in BEIR layout; BM25's top 100 are reranked. For each tier and precision: nDCG@10 on each
collection and its mean, its difference from float32, and Kendall's τ between the scores of a query's candidates, as the
mean over all queries and at worst. With --json, the differences also go into the models' folders
(`precision_costs.json`), where `dtype: auto` and `fastest` read them. Scores are kept in the folder --scores.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.contest.report import kendall_tau
from benchmarks.demo_scores import SCORES, scored

from rankfleet.bench.machine import cpu_instructions
from rankfleet.bench.results import measured, write_json, write_results
from rankfleet.engine.checkpoint.files import PRECISION_COSTS, find_checkpoint
from rankfleet.evaluate import Collection, best_first, measure_run, ranked_run

EXACT, OTHERS = "float32", ("bfloat16", "int8")
TOP_K = 100


def figures_of(tier: str, exact: list[Collection], other: list[Collection]) -> dict[str, Any]:
    """Of one tier and precision: `ndcg@10` by collection, their mean, and how much it agrees with `exact`."""
    ndcg: dict[str, float] = {}
    taus: list[float] = []
    for one, reference in zip(other, exact, strict=True):
        logits, true = one.scored[tier].logits, reference.scored[tier].logits
        order = {query: [one.candidates[query][i].id for i in best_first(own)] for query, own in logits.items()}
        ndcg[one.name] = round(measure_run(ranked_run(order), one.judged.qrels).ndcg_10, 5)
        taus += [kendall_tau(own.tolist(), true[query].tolist()) for query, own in logits.items() if len(own) > 1]
    return {
        "ndcg@10": ndcg,
        "mean": round(float(np.mean(list(ndcg.values()))), 5),
        "tau": round(float(np.mean(taus)), 5),
        "worst_tau": round(float(np.min(taus)), 5),
    }


def main() -> None:
    options = arguments()
    read = [Collection.read(folder, TOP_K) for folder in options.data]
    found = {dtype: scored(read, dtype, options.scores, options.threads) for dtype in (EXACT, *OTHERS)}
    tiers: dict[str, Any] = {}
    for tier in found[EXACT][0].scored:
        tiers[tier] = {dtype: figures_of(tier, found[EXACT], found[dtype]) for dtype in found}
        for dtype, figures in tiers[tier].items():
            figures["difference"] = round(figures["mean"] - tiers[tier][EXACT]["mean"], 5)
            print(
                f"{tier:8} {dtype:9} nDCG@10 {figures['mean']:.4f} ({figures['difference']:+.4f})  "
                f"τ {figures['tau']:.4f}, at worst {figures['worst_tau']:.4f}"
            )
    if options.json is not None:
        about = measured(packages=("ir-measures", "bm25s")) | {
            "instructions": cpu_instructions(),
            "threads": options.threads,
            "queries": sum(len(each.judged.queries) for each in read),
            "top_k": TOP_K,
        }
        write_results(options.json, {"tiers": tiers}, about)
        for tier, by_dtype in tiers.items():
            costs = {dtype: 0.0 - by_dtype[dtype]["difference"] for dtype in OTHERS}
            write_json(find_checkpoint(f"demo/{tier}").folder / PRECISION_COSTS, costs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="collection in BEIR layout")
    parser.add_argument("--scores", type=Path, default=SCORES, help="folder (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
