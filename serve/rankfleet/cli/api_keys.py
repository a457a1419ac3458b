"""`rankfleet keys`: make API keys."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rankfleet.api.keys import line_of, new_key, parse_keys
from rankfleet.cli import app, err
from rankfleet.core.errors import ConfigError

keys_app = typer.Typer(no_args_is_help=True, help="Make API keys.")
app.add_typer(keys_app, name="keys")


@keys_app.callback()
def keys() -> None:
    """Make API keys."""


@keys_app.command()
def new(
    tenant: Annotated[str, typer.Argument(help="whose key it is; a tenant may have several")],
    file: Annotated[
        Path | None, typer.Option(help="file of keys, to which the line is added; made if it is missing")
    ] = None,
) -> None:
    """Print a new API key, once, and the line for the file of keys, from which nobody can tell the key."""
    key = new_key()
    line = line_of(key, tenant)
    if file is not None:
        add(line, file)
        err.print(f"added to {file}; give the key to the tenant, it is not shown again:", highlight=False)
    else:
        err.print(f"line for the file of keys:  {line}\nkey, not shown again:", highlight=False, soft_wrap=True)
    print(key)


def add(line: str, file: Path) -> None:
    """Add a line to a file of keys, which only its owner may read if it is made here. Raises ConfigError."""
    try:
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as opened:
            text = opened.read()
            parse_keys(text, str(file))
            opened.write(f"{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
