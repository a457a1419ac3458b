"""`rankfleet rank`: rank documents on this computer, without a cluster."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from rankfleet.bench.tables import terminal
from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config, pick_tier
from rankfleet.core.errors import CheckpointError, InvalidRequest
from rankfleet.core.passages import LongDocuments, PassageRule
from rankfleet.retrieval import records


@app.command()
def rank(
    query: Annotated[str, typer.Argument(help="query that the documents are ranked for")],
    documents: Annotated[list[str] | None, typer.Argument(help="documents to rank")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="file with one document per line; - for standard input")
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="tier that scores; default: the one with the highest quality")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="number of documents to show; default: all")] = None,
    long_documents: Annotated[
        LongDocuments | None,
        typer.Option(
            help="score long documents by their beginning or by their best passage; default: as the fleet file says"
        ),
    ] = None,
    config: ConfigOption = "demo",
) -> None:
    """Rank documents on this computer, without a cluster, by a tier's scores alone, whatever order they come in."""
    fleet = load_config(config)
    texts = list(documents or []) + read_lines(file)
    if not query.strip() or not texts:
        raise InvalidRequest('give a query and documents:  rankfleet rank "query" "doc" "doc"  (or --file docs.txt)')
    tier = tier or max(fleet.tiers, key=lambda name: fleet.tiers[name].quality)
    settings, group = pick_tier(fleet, tier), fleet.groups[fleet.group_of(tier)]

    long_documents = long_documents or fleet.long_documents
    rule = PassageRule(fleet.passage_overlap_tokens, fleet.limits.max_passages)

    gc.disable()  # this process ends soon, and would spend a seventh of the time of these imports on it
    with err.status(f"loading {tier}") as status:
        from rankfleet.engine.checkpoint.files import find_checkpoint
        from rankfleet.engine.runtime.scorer import Reranker

        try:
            checkpoint = find_checkpoint(
                settings.model,
                settings.revision,
                progress=lambda done: status.update(f"downloading {tier}: {decimal(done)}"),
            )
            reranker = Reranker.load(checkpoint, group.dtype, max_tokens=settings.max_tokens)
        except CheckpointError as error:
            raise CheckpointError(f"tier {tier}: {error}") from error
    with err.status(f"ranking {len(texts)} documents with {tier}"):
        logits = reranker.score(query, texts, rule if long_documents == "max_passage" else None)

    order = (-logits).argsort(kind="stable")[:top]
    rows = [(str(place), f"{logits[i]:.2f}", texts[i]) for place, i in enumerate(order, start=1)]
    out.print(terminal(("rank", "score", "document"), rows))


def read_lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    found = records.lines_of("standard input", sys.stdin.buffer) if str(file) == "-" else records.read_lines(file)
    return [line for _, line in found]
