"""`rankfleet index`: build the index of /v1/search."""

from pathlib import Path
from typing import Annotated

import typer

from rankfleet.cli import app, err, out

index_app = typer.Typer(no_args_is_help=True, help="Build a search index.")
app.add_typer(index_app, name="index")


@index_app.callback()
def index() -> None:
    """Build a search index."""


@index_app.command()
def build(
    source: Annotated[
        Path, typer.Argument(help="documents: a folder, such as BEIR's, or a file: JSON lines, Parquet, a table")
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="folder for the index")],
) -> None:
    """Index documents for BM25 search."""
    from rankfleet.retrieval.bm25 import Bm25Index
    from rankfleet.retrieval.corpus import read_documents

    with err.status(f"reading {source}"):
        documents = list(read_documents(source))
    with err.status(f"indexing {len(documents)} documents"):
        Bm25Index.build(documents).save(folder)
    out.print(
        f"indexed {len(documents)} documents in {folder}; name it in the fleet file:  search: {{index: {folder}}}",
        soft_wrap=True,
    )
