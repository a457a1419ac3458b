"""One run of `rankfleet distill`, from queries or documents to a folder that a tier can name.

The steps: read and check everything → begin or resume the work folder → score with the teacher → select and hold back →
train → write the folder. Nothing is written before everything that can be checked has been.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.distill.card import FLEET_FILE, PICTURE, fleet_file, model_card
from rankfleet.distill.held_back import held_back_keys, merged
from rankfleet.distill.job import MARGIN, PATIENCE, TOP_K, Job, check_scores
from rankfleet.distill.manifest import digest_of, resume_or_begin
from rankfleet.distill.mining import candidates, select
from rankfleet.distill.picture import draw
from rankfleet.distill.questions import make_questions, query_files, read_queries, sample
from rankfleet.distill.recipe import Recipe, fitting_batch, published_recipe
from rankfleet.distill.sources import Group, check_pairs, read_pairs
from rankfleet.distill.student import Cuts, build_student, check_student, student_limit
from rankfleet.distill.teacher import Teacher, score_groups, with_scores
from rankfleet.distill.training import MEASURED, Trained, measurements, silence_libraries, train, training_precision
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.storage import write_int8
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.retrieval.corpus import document_files, read_documents

Show = Callable[[str, int, int], object]  # phase, done, to do
TRAINING_TOKENS = 512  # of a pair, at most, unless the job says otherwise


@dataclass(frozen=True)
class Source:
    """Where pairs come from. groups: reads them, from the start each time; count: of groups; facts: for the model card;
    digest: of the files; scored: whether groups have scores."""

    groups: Callable[[], Iterable[Group]]
    count: int
    facts: dict[str, Any]
    digest: dict[str, str]
    scored: bool = False


def distill(job: Job, student: Checkpoint, teacher: Teacher | None, show: Show) -> dict[str, Any]:
    """Run a job that `check_job` has passed. Returns the figures of the run.

    Raises InvalidRequest for data that cannot be used, CheckpointError for a student that cannot be trained, and
    RankfleetError for training that diverges.
    """
    silence_libraries()
    source = read_source(job, teacher.name if teacher else None, show)
    cuts = Cuts(job.layers, job.inner, job.vocabulary)
    check_student(student, cuts)
    max_tokens = job.max_tokens or min(TRAINING_TOKENS, student_limit(student))
    if max_tokens > student_limit(student):
        raise InvalidRequest(f"--max-tokens {max_tokens}: {job.student} takes pairs of {student_limit(student)} tokens")
    if source.scored:
        divide(source.groups, job.held_out)

    work = job.out / "work"
    manifest = {
        "data": source.digest,
        "teacher": teacher.identity if teacher else None,
        "student": f"{Path(job.student).name} with weights {student.weights_digest}",
        "settings": job.settings() | {"precision": training_precision()},
    }
    resume_or_begin(work, manifest)
    if teacher is not None:
        score_groups(
            teacher.load(),
            source.groups(),
            work / "scores.jsonl",
            lambda done: show(f"scoring with {teacher.name}", done, source.count),
        )

    margin = MARGIN if job.margin is None else job.margin

    def selected(group: Group) -> Group | None:
        return group if job.data else select(group, margin, job.seed)

    def scored() -> Iterator[Group]:
        groups = with_scores(source.groups(), work / "scores.jsonl") if teacher else source.groups()
        yield from (group for group in groups if selected(group))

    # Held-back queries keep all candidates: what is left out of training comes before a fleet too.
    keys, held_back = divide(scored, job.held_out)
    rows = work / "pairs.jsonl"
    pairs, queries = write_rows(filter(None, (selected(g) for g in scored() if g.key not in keys)), rows)
    model = build_student(student, cuts, texts_of(rows) if job.vocabulary else (), job.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    published = published_recipe(parameters)
    recipe = Recipe(
        published.learning_rate if job.learning_rate is None else job.learning_rate,
        job.batch or fitting_batch(published.batch, pairs, job.epochs),
        job.epochs,
        max_tokens,
    )
    trained = train(
        model,
        rows,
        held_back,
        work,
        recipe,
        training_precision(),
        job.seed,
        PATIENCE if job.patience is None else job.patience,
        lambda done, total: show(f"training {job.student}", done, total),
    )
    facts = {**source.facts, "queries trained on": queries, "pairs trained on": pairs}
    figures = figures_of(job, parameters, teacher, recipe, facts, trained, held_back)
    write_folder(job, work, figures)
    return figures


def read_source(job: Job, teacher: str | None, show: Show) -> Source:
    """Read and check the data of a job. Raises InvalidRequest that names file and line."""
    if job.data is not None:
        return pair_source(job.data, job.limit, teacher)
    assert job.documents is not None
    return mined_source(job, job.documents, show)


def pair_source(data: Path, limit: int | None, teacher: str | None) -> Source:
    """Pairs of a file, which is read again whenever they are needed."""
    found = check_pairs(data, limit)
    check_scores(data, found.scored, teacher)
    facts = {"pairs": f"{found.pairs:,} of {data.name}", "queries": found.queries}
    digest = {"data": digest_of(data)}
    return Source(lambda: read_pairs(data, limit), found.groups, facts, digest, found.scored)


def mined_source(job: Job, folder: Path, show: Show) -> Source:
    """Queries with BM25's candidates among the documents."""
    documents = list(read_documents(folder))
    index = Bm25Index.build(documents)
    texts = {document.id: document.text for document in documents}
    facts: dict[str, Any] = {"documents": f"{len(documents):,} of {folder.resolve().name}"}
    digest = {"documents": digest_of(*document_files(folder))}
    if job.queries is None:
        queries = sample(make_questions(documents), job.questions, job.seed)
        facts["queries made of titles and first sentences"] = len(queries)
    else:
        queries = read_queries(job.queries, texts)
        facts["queries"], digest["queries"] = len(queries), digest_of(*query_files(job.queries))
    if job.margin is not None and not any(query.positives for query in queries):
        raise InvalidRequest('--margin would do nothing: no query names its positives (under "positives")')
    mined: list[Group] = []
    for done, group in enumerate(candidates(index, queries, texts, job.top_k or TOP_K), start=1):
        mined += [] if group is None else [group]
        show("finding candidates with BM25", done, len(queries))
    if not mined:
        raise InvalidRequest(f"none of {len(queries)} queries shares a word with a document of {folder}")
    return Source(lambda: mined, len(mined), facts, digest)


def divide(groups: Callable[[], Iterable[Group]], share: float) -> tuple[frozenset[str], list[Group]]:
    """(keys of the queries that are held back, these queries). groups: reads all, from the start each time.

    Raises InvalidRequest where nothing is left to train on, or nothing that can be ranked is held back.
    """
    all_keys = {group.key for group in groups()}
    keys = held_back_keys(all_keys, share)
    if len(all_keys) <= len(keys):
        raise InvalidRequest(
            f"too few queries: of {len(all_keys)}, {len(keys)} held back, so that none is left to train on"
        )
    held_back = merged(group for group in groups() if group.key in keys)
    if keys and not held_back:
        raise InvalidRequest(
            f"none of {len(keys)} held-back queries has two documents with different scores, so that no ranking can be "
            "measured; give queries more documents, or train without held-back queries (--held-out 0)"
        )
    return keys, held_back


def write_rows(groups: Iterable[Group], path: Path) -> tuple[int, int]:
    """Write the pairs to train on. Returns the numbers of pairs and of queries.

    Raises RankfleetError if all scores are equal.
    """
    pairs, queries, scores = 0, set[str](), set[float]()
    with path.open("w", encoding="utf-8") as sink:
        for group in groups:
            queries.add(group.query)
            for document, score in zip(group.documents, group.scores or (), strict=True):
                row = {"query": group.query, "document": document, "score": score}
                sink.write(json.dumps(row, ensure_ascii=False) + "\n")
                pairs += 1
                if len(scores) < 2:
                    scores.add(score)
    if len(scores) < 2:
        raise RankfleetError(f"the scores of all {pairs} pairs are equal; there is nothing to learn from them")
    return pairs, len(queries)


def texts_of(rows: Path) -> Iterator[str]:
    """All queries and documents of a file that `write_rows` wrote."""
    with rows.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield from (row["query"], row["document"])


def figures_of(
    job: Job,
    parameters: int,
    teacher: Teacher | None,
    recipe: Recipe,
    facts: dict[str, Any],
    trained: Trained,
    held_back: Sequence[Group],
) -> dict[str, Any]:
    """What a run was made of, and how it went, as JSON."""
    measured = measurements(trained.log, MEASURED)
    return {
        "student": {"name": job.student, "parameters": parameters},
        "teacher": teacher.name if teacher else None,
        "data": facts,
        "settings": {**job.settings(), **asdict(recipe), "precision": training_precision()},
        "seed": job.seed,
        "steps": trained.steps,
        "stopped_early": trained.steps < trained.planned_steps,
        "held_back": {"queries": len(held_back), **ranking(measured)} if held_back else None,
        "over_steps": {"loss": measurements(trained.log, "loss"), "ndcg@10": measured},
    }


def ranking(measured: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """nDCG@10 before training and of the checkpoint that was kept, the first of the best."""
    (_, start), *later = measured
    step, best = max(later, key=lambda point: point[1])
    return {"start": start, "best": best, "best_step": step}


def write_folder(job: Job, work: Path, figures: dict[str, Any]) -> None:
    """Write the finished student with its card to the job's folder, weights last, and remove the work folder."""
    finished = work / "student"
    if job.int8:
        shutil.rmtree(work / "int8", ignore_errors=True)
        write_int8(Checkpoint(finished), work / "int8")
        finished = work / "int8"
    (finished / "README.md").write_text(model_card(figures, job.out), encoding="utf-8")
    (finished / FLEET_FILE).write_text(fleet_file(job.out), encoding="utf-8")
    draw(figures, finished / PICTURE)
    for path in sorted(finished.iterdir(), key=lambda path: path.name == "model.safetensors"):
        shutil.rmtree(job.out / path.name, ignore_errors=True)
        path.replace(job.out / path.name)
    shutil.rmtree(work)
