"""Compare cascades with the large tier alone: a small tier scores all candidates, a large one the best k of them.

    python -m benchmarks.cascades --data DIR [--data DIR …] [--small demo/small] [--large demo/large] [--json F]

DIR is a collection in BEIR layout; BM25's top 100 are reranked. Every stage runs for every query. Only scoring is
timed, as CPU time of one thread, without tokenizing. The functions that serve cascades choose the k from BM25's order
and the small tier's together, and join both stages into one order (`router/cascade.py`). `large on the first k` scores
BM25's first k instead, without the small tier.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rankfleet.bench.results import measured, write_results
from rankfleet.core.decisions import Stage
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.scorer import Scorer
from rankfleet.evaluate import INSTANT, best_first, first_scored, measure_run, retrieve, run_of
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.retrieval.corpus import read_documents, read_judged
from rankfleet.router.cascade import ranked, second_stage

TOP_K = 100
DEPTHS = (10, 12, 15, 20, 30)
FIRST = (10, 20, 30)
ALONE = "large on all"


def plans_of(small: Scorer, large: Scorer, pairs: TokenizedPairs) -> dict[str, tuple[np.ndarray, float, int]]:
    """By plan: the order of one query's candidates, seconds of scoring, and pairs scored by the large tier."""
    by_small, small_s = timed(small, pairs)
    by_large, large_s = timed(large, pairs)
    found = {
        ALONE: (best_first(by_large), large_s, len(pairs)),
        "small on all": (best_first(by_small), small_s, 0),
        "as retrieved": (np.arange(len(pairs)), 0.0, 0),
    }
    for k in DEPTHS:
        kept = second_stage(Stage.of("large", k), by_small, pairs.lengths, INSTANT, math.inf, retrieved=True)
        again, again_s = timed(large, pairs.take(kept))
        order, _ = ranked(by_small, kept, again, retrieved=True)
        found[f"small, then large on {k}"] = order, small_s + again_s, len(kept)
    for k in FIRST:
        rows = np.arange(min(k, len(pairs)))
        _, first_s = timed(large, pairs.take(rows))
        found[f"large on the first {k}"] = first_scored(by_large, k), first_s, len(rows)
    return found


def timed(scorer: Scorer, pairs: TokenizedPairs) -> tuple[np.ndarray, float]:
    started = time.process_time()
    logits = scorer.score(pairs)
    return logits, time.process_time() - started


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    small, large = (Scorer.load(find_checkpoint(name), options.dtype, "cpu") for name in (options.small, options.large))
    tokenizer = load_tokenizer(find_checkpoint(options.large))
    ndcg: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    again: dict[str, int] = {}
    queries = 0
    for folder in options.data:
        judged = read_judged(folder)
        found = retrieve(Bm25Index.build(read_documents(folder)), judged, TOP_K)
        candidates = {query: hits for query, hits in found.items() if hits}
        orders: dict[str, dict[str, np.ndarray]] = {}
        for query, hits in candidates.items():
            [query_ids], texts = tokenizer.encode([judged.queries[query]]), tokenizer.encode([hit.text for hit in hits])
            pairs, _ = tokenizer.pair(query_ids, texts)
            for name, (order, took_s, rescored) in plans_of(small, large, pairs).items():
                orders.setdefault(name, {})[query] = order
                seconds[name] = seconds.get(name, 0.0) + took_s
                again[name] = again.get(name, 0) + rescored
        queries += len(candidates)
        for name, by_query in orders.items():
            ndcg.setdefault(name, {})[folder.name] = measure_run(run_of(by_query, candidates), judged.qrels).ndcg_10

    mean = {name: float(np.mean(list(values.values()))) for name, values in ndcg.items()}
    plans: dict[str, Any] = {}
    for name, values in ndcg.items():
        times_less = seconds[ALONE] / seconds[name] if seconds[name] else None
        plans[name] = {
            "ndcg@10": {collection: round(value, 5) for collection, value in values.items()},
            "mean": round(mean[name], 5),
            "difference": round(mean[name] - mean[ALONE], 5),
            "device_s": round(seconds[name], 3),
            "times_less": round(times_less, 2) if times_less else None,
            "by_large": round(again[name] / queries, 1),
        }
        less = f"{times_less:.2f}× less device time" if times_less else ""
        print(f"{name:24} nDCG@10 {mean[name]:.4f} ({mean[name] - mean[ALONE]:+.4f})  {less}")
    if options.json is not None:
        about = measured(packages=("ir-measures", "bm25s")) | {
            "small": options.small,
            "large": options.large,
            "dtype": large.dtype,
            "threads": 1,
            "queries": queries,
            "top_k": TOP_K,
        }
        write_results(options.json, {"plans": plans}, about)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="collection in BEIR layout")
    parser.add_argument("--small", default="demo/small")
    parser.add_argument("--large", default="demo/large")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
