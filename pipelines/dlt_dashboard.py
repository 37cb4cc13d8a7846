"""Marimo with dlt's dashboard able to read the lake by DuckDB 2.

dlt 1.31 fetches a whole answer of DuckDB's by a name that DuckDB 2 no longer has. See pipelines/dlt_command.py.
"""

from collections.abc import Iterator
from typing import Any

from dlt.destinations.impl.duckdb.sql_client import DuckDBDBApiCursorImpl
from marimo._cli.cli import main

_in_chunks = DuckDBDBApiCursorImpl.iter_arrow


def _iter_arrow(self: Any, chunk_size: int) -> Iterator[Any]:
    if chunk_size:
        yield from _in_chunks(self, chunk_size)
    else:
        yield self.native_cursor.to_arrow_reader().read_all()


def run() -> None:
    """Marimo's own command line."""
    DuckDBDBApiCursorImpl.iter_arrow = _iter_arrow  # type: ignore[assignment, method-assign]
    main(prog_name="marimo")
