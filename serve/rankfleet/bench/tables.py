"""Tables of figures, for the terminal and for Markdown pages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Column:
    """One figure of each row. key: its name in a row; format: as for `format()`; title: the key by default."""

    key: str
    format: str = ""
    title: str = ""

    @property
    def header(self) -> str:
        return self.title or self.key.replace("_", " ")

    def cell(self, row: Mapping[str, Any]) -> str:
        """The figure as text, empty where a row has none."""
        value = row.get(self.key)
        return "" if value is None else format(value, self.format)


# What became of the requests of a load, sent or simulated.
LOAD = (
    Column("requests", ","),
    Column("attainment", ".2%"),
    Column("mean_quality", ".4f"),
    Column("refused", ","),
    Column("given_up", ","),
    Column("late", ","),
    Column("failed", ","),
    Column("p50_ms", ","),
    Column("p99_ms", ","),
)


def tier_shares(tiers: Mapping[str, float]) -> str:
    """Which tiers answered in time, as shares of all requests."""
    return "answered in time by " + ", ".join(f"{tier} {share:.1%}" for tier, share in tiers.items())


def terminal(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    emphasis: Callable[[Sequence[str]], bool] = lambda row: False,
) -> Table:
    """A table without lines, for `rich` to print. Cells are shown as they are; rows with emphasis in bold green."""
    table = Table(*header, title=title, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row), style="bold green" if emphasis(row) else None)
    return table


def figures_table(
    rows: Mapping[str, Mapping[str, Any]], columns: Sequence[Column], first: str = "", title: str | None = None
) -> Table:
    """A terminal table of named rows, without the columns that no row has. first: header of the names."""
    used = [column for column in columns if any(column.cell(row) for row in rows.values())]
    header = [first, *(column.header for column in used)]
    return terminal(header, ([name, *(column.cell(row) for column in used)] for name, row in rows.items()), title)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table. left: how many columns hold words; the others hold numbers and stand to the right."""
    ruler = ["---" if i < left else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ruler, *rows))
