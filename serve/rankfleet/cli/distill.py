"""`rankfleet distill`: train a small reranker on the scores of a large one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from rankfleet.cli import app, err, out
from rankfleet.core.errors import InvalidRequest, RankfleetError


@app.command()
def distill(
    student: Annotated[str, typer.Option(help="encoder or reranker to start from: a folder, hub id or shipped name")],
    data: Annotated[Path, typer.Option(help='JSONL of {"query", "document"}, with "score" if there is no --teacher')],
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="folder for the student; an interrupted run resumes there")
    ],
    teacher: Annotated[
        str | None, typer.Option(help="reranker that scores the pairs; without one they need scores")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="number of layers of the student to keep, from the first")
    ] = None,
    inner: Annotated[int | None, typer.Option(min=1, help="number of inner units of each MLP to keep")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=300, help="number of tokens to which a WordPiece vocabulary is cut")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="learning rate; default: as published for this size")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="pairs per step; default: as published")] = None,
    epochs: Annotated[float | None, typer.Option(min=0, help="passes over the data; default: 1")] = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="length in tokens to which pairs are cut in training")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="train on this many pairs only, from the first")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="store the matrices in int8, a quarter of the size")] = False,
) -> None:
    """Train a small student on a teacher's raw scores, by mean squared error (the published Ettin recipe)."""
    if not data.exists():
        raise InvalidRequest(f"there is no file {data}; give JSONL with --data")
    try:
        import datasets  # noqa: F401
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise RankfleetError("training needs more packages:  pip install 'rankfleet[train]'") from error
    from rankfleet.distill.student import student_of_encoder, student_of_reranker
    from rankfleet.distill.teacher import count_pairs, read_pairs, score_pairs
    from rankfleet.distill.train import published_recipe, train
    from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
    from rankfleet.engine.checkpoint.storage import write_int8
    from rankfleet.engine.runtime.scorer import Reranker

    source = find_checkpoint(student)
    work = folder / "work"
    if (folder / "model.safetensors").exists():
        raise InvalidRequest(f"{folder} contains a finished student already; give another folder with --out")
    work.mkdir(parents=True, exist_ok=True)

    with err.status(f"reading {data}"):
        pairs = count_pairs(data, scored=teacher is None)
    triples = data
    if teacher is not None:
        triples = work / "triples.jsonl"
        with Progress(console=err) as bar:
            task = bar.add_task(f"scoring with {teacher}", total=pairs)
            score_pairs(Reranker.load(find_checkpoint(teacher)), data, triples, lambda n: bar.update(task, completed=n))

    if source.modules and len(source.modules) > 1 and source.modules[-1][0] == "Dense":
        model = student_of_reranker(source, layers, inner)
    else:
        texts = (text for pair in read_pairs(triples, scored=True) for text in (pair["query"], pair["document"]))
        model = student_of_encoder(source.folder, layers, vocabulary, texts if vocabulary else ())
    parameters = sum(p.numel() for p in model.parameters())
    recipe = published_recipe(parameters)
    given = {"learning_rate": learning_rate, "batch": batch, "epochs": epochs, "max_tokens": max_tokens}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    err.print(f"student of {parameters / 1e6:.1f}M parameters, {min(pairs, limit or pairs)} pairs, {recipe}")
    train(model, triples, work, recipe, limit)

    finished = Checkpoint(work / "student")
    if int8:
        write_int8(finished, folder / "int8")
        finished = Checkpoint(folder / "int8")
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "int8", ignore_errors=True)
    shutil.rmtree(work)
    out.print(f"the student is in {folder}; use that as `model:` of a tier, and measure it with `rankfleet evaluate`")
