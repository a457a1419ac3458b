"""What one run of `rankfleet distill` is asked to do, and which options make no sense together."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rankfleet.core.errors import InvalidRequest

PATHS = ("out", "data", "documents", "queries", "student")  # by their contents in a manifest, not by their names


@dataclass(frozen=True)
class Job:
    """One run. None: not given; `defaults` says what then counts.

    data: JSONL of pairs; documents, queries: what pairs are mined from. top_k: BM25 candidates of a query; questions:
    most queries made of documents; margin: of the teacher's scores, below which no document counts as a false negative;
    limit: use only the first pairs of `data`; held_out: share of the queries that is kept out of training; patience:
    measurements without a better one after which training stops. The others are as in `Cuts` and `Recipe`.
    """

    student: str
    out: Path
    data: Path | None = None
    documents: Path | None = None
    queries: Path | None = None
    top_k: int | None = None
    questions: int | None = None
    margin: float | None = None
    limit: int | None = None
    layers: int | None = None
    inner: int | None = None
    vocabulary: int | None = None
    learning_rate: float | None = None
    batch: int | None = None
    epochs: float = 1.0
    max_tokens: int | None = None
    held_out: float = 0.05
    patience: int | None = None
    seed: int = 12
    int8: bool = False

    def settings(self) -> dict[str, Any]:
        """The options that a result depends on, for a manifest."""
        return {name: value for name, value in asdict(self).items() if name not in PATHS}


TOP_K, MARGIN = 100, 0.0
PATIENCE = 8  # of 20 measurements: with a learning rate that falls to 0, the last steps often give the best


def check_job(job: Job, teacher: str | None) -> None:
    """Raises InvalidRequest for options that contradict each other or would do nothing."""
    if (job.data is None) == (job.documents is None):
        raise InvalidRequest("give either --data with pairs, or --documents to mine pairs from")
    if job.data is not None:
        refuse("--data has the pairs already", job, "queries", "questions", "top_k", "margin")
    else:
        refuse("it counts the pairs of --data", job, "limit")
        if teacher is None:
            raise InvalidRequest("--documents have no scores: name the reranker that scores them with --teacher")
    if job.queries is not None:
        refuse("--queries are given, so none are made of documents", job, "questions")
    if job.held_out == 0:
        refuse("without held-back queries nothing is measured", job, "patience")
    for option in ("data", "documents", "queries"):
        path = getattr(job, option)
        if path is not None and not path.exists():
            raise InvalidRequest(f"there is no file {path} (--{option})")
    if job.out.exists() and not job.out.is_dir():
        raise InvalidRequest(f"{job.out} is a file; --out names a folder")
    if (job.out / "model.safetensors").exists():
        raise InvalidRequest(f"{job.out} contains a finished student already; give another folder with --out")


def check_scores(data: Path, scored: bool, teacher: str | None) -> None:
    """Raises InvalidRequest where pairs have scores and a teacher too, or neither."""
    if scored and teacher is not None:
        raise InvalidRequest(
            f"the pairs of {data} have scores, so --teacher would do nothing; leave out one of the two"
        )
    if not scored and teacher is None:
        raise InvalidRequest(f"the pairs of {data} have no scores: name the reranker that scores them with --teacher")


def refuse(why: str, job: Job, *options: str) -> None:
    """Raises InvalidRequest that names those of the options that are given."""
    given = [f"--{option.replace('_', '-')}" for option in options if getattr(job, option) is not None]
    if given:
        raise InvalidRequest(f"{' and '.join(given)} would do nothing: {why}")
