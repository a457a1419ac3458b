"""Records of data files in the shapes that people have them: JSON lines, tables, Parquet; plain or compressed by gzip.

The shape is recognised from the content. Parquet and gzip have their first bytes; JSON lines begin with a brace;
anything else is a table, with tabs (in some kinds of files also spaces) between its columns, and with or without a
first line of column names. Lines end with LF or CRLF and nowhere else; blank lines and a byte-order mark are skipped.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from rankfleet.core.errors import InvalidRequest, RankfleetError, quote

GZIP, PARQUET, MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
PACKED = {b"BZh": "by bzip2", b"\xfd7zXZ": "by xz", b"\x28\xb5\x2f\xfd": "by zstd", b"PK\x03\x04": "as a zip archive"}

Row = dict[str, Any]  # by name, as in the file


@dataclass(frozen=True)
class Kind:
    """What a kind of file holds.

    needs: what each line must have, for messages; shapes: by field, the names it goes by in JSON, Parquet and lines of
    column names, the first shape that fits counts; optional: fields that may be missing or null; columns: names of the
    columns of a table without a line of names, by their number; numbers: names of columns whose cells are numbers;
    spaces: whether spaces may separate columns.
    """

    needs: str
    shapes: Sequence[Mapping[str, Sequence[str]]]
    optional: frozenset[str] = frozenset()
    columns: Mapping[int, Sequence[str]] | None = None
    numbers: frozenset[str] = frozenset()
    spaces: bool = False

    def keys(self, row: Row, where: str) -> dict[str, str]:
        """The name of each field in this row; {} if no shape fits. Raises InvalidRequest where two names could be
        meant."""
        for shape in self.shapes:
            known = {field: [name for name in names if row.get(name) is not None] for field, names in shape.items()}
            if all(known[field] or field in self.optional for field in shape):
                for field, (name, *others) in ((f, n) for f, n in known.items() if n):
                    if any(row[other] != row[name] for other in others):
                        meant = " or ".join(map(quote, (name, *others)))
                        raise InvalidRequest(f"{where}: which is the {field}, {meant}? Leave only that one in the file")
                return {field: (known[field] or names)[0] for field, names in shape.items()}
        return {}

    def missing(self, row: Row) -> str:
        """Which fields of the first shape a row lacks, for a message."""
        needed = [field for field in self.shapes[0] if field not in self.optional]
        lacking = [f for f in needed if all(row.get(name) is None for name in self.shapes[0][f])]
        return f"{' and '.join(map(quote, lacking))} {'is' if len(lacking) == 1 else 'are'} not there"


def read_records(file: Path, kind: Kind) -> Iterator[tuple[int, Row]]:
    """(number of the line, or of the row in Parquet; values by field) of every record.

    An optional field is None where it is missing. Raises InvalidRequest that names file and line, and RankfleetError
    where Parquet cannot be read without a package.
    """
    keys: dict[str, str] = {}
    for number, row in rows_of(file, kind):
        if not keys or any(row.get(key) is None for field, key in keys.items() if field not in kind.optional):
            keys = kind.keys(row, f"{file}:{number}")
        if not keys:
            has = ", ".join(map(quote, row)) or "nothing"
            raise InvalidRequest(f"{file}:{number}: {kind.needs}; {kind.missing(row)} (it has {has})")
        yield number, {field: row.get(key) for field, key in keys.items()}


def rows_of(file: Path, kind: Kind) -> Iterator[tuple[int, Row]]:
    """(number, values by name) of the rows of a file of any shape."""
    if first_bytes(file) == PARQUET:
        yield from parquet_rows(file)
        return
    if file.name.removesuffix(".gz").endswith(".csv"):
        raise InvalidRequest(f"{file} is comma-separated, where quotes mean different things; {kind.needs}")
    parse: Callable[[int, str], Row | None] | None = None
    for number, line in read_lines(file):
        if parse is None:
            if line.lstrip().startswith("["):
                raise InvalidRequest(
                    f"{file}:{number}: a JSON list; {kind.needs}, with one object on each line (jq -c '.[]' makes that)"
                )
            parse = json_parser(file) if line.lstrip().startswith("{") else table_parser(file, kind, number, line)
        if (row := parse(number, line)) is not None:
            yield number, row


def json_parser(file: Path) -> Callable[[int, str], Row]:
    """Parses a line of JSON."""

    def parse(number: int, line: str) -> Row:
        try:
            record = orjson.loads(line)  # refuses lone surrogates, which cannot be written back as UTF-8
        except ValueError as error:
            why = "NaN and Infinity are not JSON" if "NaN" in line or "Infinity" in line else str(error)
            raise InvalidRequest(f"{file}:{number}: not JSON ({why}); expected one object on each line") from error
        if not isinstance(record, dict):
            raise InvalidRequest(f"{file}:{number}: expected a JSON object")
        return record

    return parse


def table_parser(file: Path, kind: Kind, first: int, line: str) -> Callable[[int, str], Row | None]:
    """Parses a line of a table whose first line, with the number `first`, is `line`; None for a line of names."""
    for split in (by_tab, by_spaces) if kind.spaces else (by_tab,):
        cells = split(line)
        named = [cell.lower() for cell in cells]
        header = bool(kind.keys(dict(zip(named, named, strict=True)), f"{file}:{first}"))
        names = named if header else (kind.columns or {}).get(len(cells))
        if names:
            break
    else:
        count = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
        raise InvalidRequest(f"{file}:{first}: {count} ({quote(line)}); {kind.needs}")

    def parse(number: int, line: str) -> Row | None:
        if header and number == first:
            return None
        cells = split(line)
        if len(cells) != len(names):
            raise InvalidRequest(f"{file}:{number}: {len(cells)} columns, where line {first} has {len(names)}")
        row: Row = dict(zip(names, cells, strict=True))
        return row | {name: number_of(row[name]) for name in kind.numbers if name in row} if kind.numbers else row

    return parse


def number_of(cell: str) -> float | str:
    """A cell as a number; as it is where it is none."""
    try:
        return float(cell)
    except ValueError:
        return cell


def by_tab(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("\t")]


def by_spaces(line: str) -> list[str]:
    """Only spaces and tabs separate: other white space of Unicode may be part of an id."""
    return [cell for cell in line.replace("\t", " ").split(" ") if cell]


def parquet_rows(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise RankfleetError(f"{file}: reading Parquet needs a package:  pip install pyarrow") from error
    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, ValueError) as error:  # what pyarrow raises derives from these
        raise InvalidRequest(f"{file}: not a whole Parquet file ({error})") from error


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number, text without its end) of each line that is not blank. Raises InvalidRequest that names the file, and the
    line where that is not UTF-8 text."""
    try:
        with open_binary(file) as lines:
            yield from lines_of(str(file), lines)
    except (OSError, EOFError, zlib.error) as error:  # the last two: gzip that is cut off or damaged
        raise InvalidRequest(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def lines_of(name: str, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """As `read_lines`, of lines that are read already. name: of the file, for messages."""
    for number, raw in enumerate(lines, start=1):
        try:
            line = (raw.removeprefix(MARK) if number == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{name} is not UTF-8 text: line {number}: {error}") from error
        if number == 1 and "\0" in line:
            raise InvalidRequest(f"{name} is not a text file; unpack archives first")
        if line.strip():
            yield number, line.rstrip("\r\n")


def open_binary(file: Path) -> IO[bytes]:
    """A file, decompressed if its first bytes are those of gzip. Raises OSError, and InvalidRequest for other ways of
    compression."""
    first = first_bytes(file)
    packed = next((how for magic, how in PACKED.items() if first.startswith(magic)), None)
    if packed is not None:
        raise InvalidRequest(f"{file} is compressed {packed}; unpack it, or compress it by gzip")
    return cast(IO[bytes], gzip.open(file)) if first.startswith(GZIP) else file.open("rb")


def first_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as raw:
            return raw.read(len(PARQUET))
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}") from error


def checked_id(value: object) -> str | None:
    """An id as text; None for what can be none. Numbers are ids, but not fractions: 1.0 would not be found as 1."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None
