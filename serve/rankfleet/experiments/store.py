"""Events and feedback of a folder, as routers write them (`cluster/event_files.py`), as tables in DuckDB."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rankfleet.core.errors import ConfigError
from rankfleet.core.events import (
    Feedback,
    RequestEvent,
    Row,
    ShadowEvent,
    lines_in_sql,
    quoted_list,
    row_type,
    sql_columns,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ATTEMPTS = 5  # to read files of which routers put some together at the same time
VIEWS: dict[str, type[Row]] = {"events": RequestEvent, "shadows": ShadowEvent, "feedback_rows": Feedback}
MERGED = """
CREATE VIEW feedback AS
WITH judged AS (
    SELECT request_id, tenant, document, arg_max(label, at_s) AS label
    FROM (SELECT request_id, tenant, at_s, unnest(map_keys(labels)) AS document, unnest(map_values(labels)) AS label
          FROM feedback_rows)
    GROUP BY ALL
), labels AS (
    SELECT request_id, tenant, map(list(document ORDER BY document), list(label ORDER BY document)) AS labels
    FROM judged GROUP BY ALL
), rest AS (
    SELECT request_id, tenant, max(at_s) AS at_s, bool_or(converted) AS converted,
           list_sort(list_distinct(flatten(list(clicks) FILTER (clicks IS NOT NULL)))) AS clicks
    FROM feedback_rows GROUP BY ALL
)
SELECT rest.request_id, rest.tenant, rest.at_s, rest.clicks, labels.labels, rest.converted
FROM rest LEFT JOIN labels
    ON labels.request_id = rest.request_id AND labels.tenant IS NOT DISTINCT FROM rest.tenant
"""


def open_store(folder: str) -> "DuckDBPyConnection":
    """The files of a folder as views. folder: a path, or a URL that fsspec opens.

    `events`: the fields of `RequestEvent`, and `router`, the name of the file without its ending.
    `shadows`: the fields of `ShadowEvent`, and `router`.
    `feedback`: the fields of `Feedback`, one row for each request and tenant: all clicks, the last label of each
    document, converted if any said so, and the time of the last.

    JSON lines are read now, Parquet when it is asked for. Lines that are not whole are left out. Raises ConfigError if
    there is no such folder, or no DuckDB.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError("reading events needs DuckDB:  pip install 'rankfleet[experiments]'") from error
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    try:
        files, root = url_to_fs(folder)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{folder}: {error}") from error
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})  # nothing is fetched from elsewhere
    is_local = isinstance(files, LocalFileSystem)
    if not is_local:
        connection.register_filesystem(files)
    for attempt in range(ATTEMPTS):
        if not files.exists(root):
            raise ConfigError(f"{folder}: there is no such folder; `events: {{folder: …}}` in the fleet file makes one")
        files.invalidate_cache()
        found = files.find(root)
        paths = whole_hours_once(found if is_local else map(files.unstrip_protocol, found))
        try:
            for view, row in VIEWS.items():
                read_rows(connection, view, row, paths)
            break
        except duckdb.IOException:
            if attempt == ATTEMPTS - 1:
                raise
    connection.execute(MERGED)
    return connection


def whole_hours_once(paths: Iterable[str]) -> list[str]:
    """The files to read: JSON lines only where there is no Parquet of the same yet."""
    listed = sorted(paths)
    parquet = {path for path in listed if path.endswith(".parquet")}
    lines = [path for path in listed if path.endswith(".jsonl")]
    return [*sorted(parquet), *(path for path in lines if f"{path.removesuffix('.jsonl')}.parquet" not in parquet)]


def read_rows(connection: "DuckDBPyConnection", view: str, row: type[Row], paths: list[str]) -> None:
    """Make a view of those of the files that have such rows."""
    paths = [path for path in paths if row_type(path.rpartition("/")[2]) is row]
    lines, parquet = ([path for path in paths if path.endswith(end)] for end in (".jsonl", ".parquet"))
    columns = ", ".join(f"{name} {kind}" for name, kind in (sql_columns(row) | {"router": "VARCHAR"}).items())
    connection.execute(f"CREATE OR REPLACE TABLE {view}_in_lines ({columns})")
    parts = [f"FROM {view}_in_lines"]
    router = "SELECT * EXCLUDE filename, parse_filename(filename, true) AS router"
    if lines:
        connection.execute(f"INSERT INTO {view}_in_lines {router} {lines_in_sql(row, lines)}")
    if parquet:
        parts.append(f"{router} FROM read_parquet({quoted_list(parquet)}, union_by_name=true, filename=true)")
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS {' UNION ALL BY NAME '.join(parts)}")
