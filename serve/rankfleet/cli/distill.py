"""`rankfleet distill`: train a small reranker on the scores of a large one."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, TaskID

from rankfleet.cli import app, err, out
from rankfleet.cli.options import load_config, pick_tier
from rankfleet.core.errors import InvalidRequest, RankfleetError

if TYPE_CHECKING:
    from rankfleet.distill.teacher import Teacher

NEEDED = ("accelerate", "bm25s", "datasets", "matplotlib", "sentence_transformers", "sklearn", "Stemmer")


@app.command()
def distill(
    student: Annotated[
        str,
        typer.Option(help="encoder or reranker to start from: a folder, shipped name, or hub id (ORG/NAME@REVISION)"),
    ],
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="folder for the student; an interrupted run resumes there")
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="reranker that scores: a tier of --config, a folder, shipped name, hub id, or a server's URL (#TIER)"
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="fleet file that --teacher names a tier of")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help='JSONL, Parquet or table of {"query", "document"}, with "score" if there is no --teacher'),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            help="documents to mine pairs from: a folder, such as BEIR's, or a file: JSON lines, Parquet, a table"
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help='queries for --documents: JSONL of {"text", "positives"?}, lines of text, or a folder with judgements '
            "for training; "
            "default: made of titles and first sentences"
        ),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=2, help="most queries to make of documents; default: all")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=2, help="BM25 candidates of each query that the teacher scores; default: 100")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="leave out documents that the teacher scores above the known positive minus this; default: 0"
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="number of layers of the student to keep, from the first")
    ] = None,
    inner: Annotated[int | None, typer.Option(min=1, help="number of inner units of each MLP to keep")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=300, help="number of tokens to which a WordPiece vocabulary is cut")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-9, help="learning rate; default: as published for this size")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="pairs per step; default: as published, less where there are few pairs")
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01, help="passes over the data")] = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=16, help="tokens to which pairs are cut in training; a student ranks longer ones worse. Default: 512"
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="share of the queries that is kept out of training, to measure on")
    ] = 0.05,
    patience: Annotated[
        int | None, typer.Option(min=1, help="stop after this many of 20 measurements without a better one; default: 8")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="use only this many pairs of --data, from the first")] = None,
    seed: Annotated[int, typer.Option(help="of everything that is drawn; the same seed gives the same file")] = 12,
    int8: Annotated[bool, typer.Option("--int8", help="store the matrices in int8, a quarter of the size")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
) -> None:
    """Make a small reranker of your own: it learns the scores that a large one gives to your queries and documents."""
    if not all(map(find_spec, NEEDED)):
        raise RankfleetError("training needs more packages:  pip install 'rankfleet[train]'")
    from rankfleet.distill.job import Job, check_job

    job = Job(
        student,
        folder,
        data=data,
        documents=documents,
        queries=queries,
        top_k=top_k,
        questions=questions,
        margin=margin,
        limit=limit,
        layers=layers,
        inner=inner,
        vocabulary=vocabulary,
        learning_rate=learning_rate,
        batch=batch,
        epochs=epochs,
        max_tokens=max_tokens,
        held_out=held_out,
        patience=patience,
        seed=seed,
        int8=int8,
    )
    check_job(job, teacher)
    with err.status("loading"):
        from rankfleet.bench.results import measured, write_results
        from rankfleet.distill.run import distill as run
        from rankfleet.engine.checkpoint.files import find_checkpoint

        start = find_checkpoint(*model_and_revision(student))
        scores = find_teacher(teacher, config)
    with Progress(console=err) as bar:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done)

        figures = run(job, start, scores, show)
    if json_file is not None:
        write_results(json_file, figures, measured(packages=("sentence-transformers", "bm25s")))
    if held_back := figures["held_back"]:
        start_ndcg, best = held_back["start"], held_back["best"]
        out.print(f"nDCG@10 on {held_back['queries']} held-back queries, by the teacher: {start_ndcg:.4f} → {best:.4f}")
        if best < start_ndcg:
            out.print("training made it worse: it needs more queries, a stronger teacher or a lower --learning-rate")
    out.print(
        f"the student is in {folder}, with README.md and training.png. Measure it on judged queries:\n"
        f"  rankfleet evaluate --config {folder}/fleet.yaml --data FOLDER",
        soft_wrap=True,
        highlight=False,
    )


def model_and_revision(model: str) -> tuple[str, str | None]:
    """ORG/NAME@REVISION in its parts; any other name whole."""
    name, at, revision = model.partition("@")
    return (name, revision) if at and not Path(model).exists() else (model, None)


def find_teacher(teacher: str | None, config: str | None) -> "Teacher | None":
    """Whoever --teacher names. Raises InvalidRequest, CheckpointError or UnknownModel."""
    from rankfleet.distill.teacher import LocalTeacher, ServerTeacher
    from rankfleet.engine.checkpoint.files import find_checkpoint

    if config is not None and (teacher is None or "://" in teacher):
        raise InvalidRequest("--config would do nothing: it is the fleet file that --teacher names a tier of")
    if teacher is None:
        return None
    if "://" in teacher:
        return ServerTeacher(teacher)
    if config is None:
        return LocalTeacher(teacher, find_checkpoint(*model_and_revision(teacher)))
    fleet = load_config(config)
    tier = pick_tier(fleet, teacher)
    dtype = fleet.groups[fleet.group_of(teacher)].dtype
    return LocalTeacher(teacher, find_checkpoint(tier.model, tier.revision), dtype, tier.max_tokens)
