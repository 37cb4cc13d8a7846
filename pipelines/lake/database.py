"""The lake as DuckDB sees it: a database in memory with the views and macros of `lake.sql`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from sources.cloudflare_audit_logs.schema import TIME

from .reads import LakeReader

LAKE_SQL = Path(__file__).with_name("lake.sql")


@contextmanager
def lake_database(lake: LakeReader) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the database. Nothing of the lake is read before a question asks for it."""
    with duckdb.connect() as database:
        if lake.filesystem is not None:
            database.register_filesystem(lake.filesystem)
        root = lake.objects.url("").rstrip("/").replace("'", "''")
        database.execute(f"SET VARIABLE lake = '{root}'")
        database.execute(LAKE_SQL.read_text())
        yield database


def duckdb_schema(schema: pa.Schema) -> str:
    """The schema as DuckDB's `read_parquet` takes it: a column that a file lacks is null, whatever other files have."""
    types = {pa.string(): "VARCHAR", TIME: "TIMESTAMPTZ"}
    columns = (f"'{c.name}': {{name: '{c.name}', type: '{types[c.type]}', default_value: NULL}}" for c in schema)
    return f"MAP {{{', '.join(columns)}}}"
