"""Does `rankfleet distill` help where there are documents and nothing else? Medline, without its test queries.

    python -m benchmarks.distill_medline --data DIR --teacher TEACHER [--json benchmarks/results/distill_medline.json]

DIR holds cranfield/, medline/, cisi/ and dbpedia-sample/ in BEIR layout. For each seed, queries are made of the titles
and first sentences of Medline's documents, the teacher scores BM25's candidates for them, and the student is trained on
these scores. Medline's own queries and judgements are not read before the student is finished. Then student and
distilled students rank BM25's top 100 on all four collections: nDCG@10 before and after, and the mean difference over
seeds with its 95% interval by a paired bootstrap over queries. Half an hour of a core for each seed.
"""

import argparse
import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import torch
from ir_measures import nDCG

from rankfleet.bench.intervals import block_interval
from rankfleet.bench.results import measured, write_results
from rankfleet.bench.tables import markdown
from rankfleet.distill.job import Job, check_job
from rankfleet.distill.run import distill
from rankfleet.distill.teacher import LocalTeacher
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.retrieval.corpus import read_documents, read_judged

COLLECTIONS = ("medline", "cranfield", "cisi", "dbpedia-sample")
TOP_K = 100


def ndcg_of(checkpoint: Checkpoint, folder: Path, queries: int | None) -> np.ndarray:
    """nDCG@10 of each judged query, reranking BM25's first TOP_K, in float32."""
    judged, index = read_judged(folder), Bm25Index.build(read_documents(folder))
    reranker = Reranker.load(checkpoint, "float32")
    run: dict[str, dict[str, float]] = {}
    for name in list(judged.queries)[:queries]:
        hits = index.search(judged.queries[name], TOP_K)
        scores = reranker.score(judged.queries[name], [hit.text for hit in hits]) if hits else np.empty(0)
        order = np.argsort(-scores, kind="stable")  # equal scores stay in BM25's order
        run[name] = {hits[row].id: float(len(hits) - place) for place, row in enumerate(order)}
    measures = ir_measures.iter_calc([nDCG @ 10], {name: judged.qrels[name] for name in run}, run)
    values = {measure.query_id: measure.value for measure in measures}
    return np.array([values.get(name, 0.0) for name in run])


def distil(options: argparse.Namespace, seed: int, out: Path) -> None:
    """Train a student into `out`, unless a run that was ended has finished it."""
    if (out / "model.safetensors").exists():
        return
    job = Job(
        options.student,
        out,
        documents=options.data / "medline",
        questions=options.questions,
        top_k=options.top_k,
        batch=options.batch,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        max_tokens=options.max_tokens,
        seed=seed,
    )
    check_job(job, options.teacher)
    shown: set[str] = set()

    def show(phase: str, done: int, total: int) -> None:
        if (text := f"seed {seed}: {phase} {10 * (10 * done // total)}%") not in shown:
            shown.add(text)
            print(text, flush=True)

    teacher = LocalTeacher(options.teacher, find_checkpoint(options.teacher))
    distill(job, find_checkpoint(options.student), teacher, show)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    before = find_checkpoint(options.student)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        for seed in options.seeds:
            distil(options, seed, out / f"seed-{seed}")
        collections = {}
        for name in COLLECTIONS:
            old = ndcg_of(before, options.data / name, options.queries)
            new = np.stack(
                [ndcg_of(Checkpoint(out / f"seed-{s}"), options.data / name, options.queries) for s in options.seeds]
            )
            gain = new.mean(axis=0) - old
            low, high = block_interval(gain, np.arange(len(gain)))
            collections[name] = {
                "queries": len(old),
                "before": round(float(old.mean()), 4),
                "after": [round(float(value), 4) for value in new.mean(axis=1)],
                "gain": round(float(gain.mean()), 4),
                "interval": [round(low, 4), round(high, 4)],
            }
    rows = [
        (
            name,
            f"{c['before']:.4f}",
            f"{np.mean(c['after']):.4f}",
            f"{c['gain']:+.4f}",
            "{:+.4f} to {:+.4f}".format(*c["interval"]),
        )
        for name, c in collections.items()
    ]
    print(markdown(("nDCG@10", "before", "after, mean of seeds", "gain", "95% interval"), rows))
    if options.json:
        about = measured(packages=("sentence-transformers", "bm25s", "ir-measures")) | {"threads": options.threads}
        write_results(options.json, {"seeds": options.seeds, "collections": collections}, about)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four collections")
    parser.add_argument("--student", default="demo/small", help="what to start from (%(default)s)")
    parser.add_argument("--teacher", required=True, help="a stronger reranker: a folder, shipped name or hub id")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--questions", type=int, default=200, help="queries made for one seed (%(default)s)")
    parser.add_argument("--top-k", type=int, default=60, help="candidates that the teacher scores (%(default)s)")
    parser.add_argument("--batch", type=int, help="pairs per step; default: as `rankfleet distill`")
    parser.add_argument("--learning-rate", type=float, help="default: as published for the student's size")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, help="of a pair in training; default: as `rankfleet distill`")
    parser.add_argument("--queries", type=int, help="measure on this many queries of each collection; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the students; a run that was ended goes on from it")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
