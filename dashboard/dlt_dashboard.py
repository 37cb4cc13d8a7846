"""Marimo with dlt's dashboard able to read the lake by DuckDB 2, and guarded as our own dashboard is.

dlt 1.31 fetches a whole answer of DuckDB's by a name that DuckDB 2 no longer has, and asks it by another such name for
what it needs to read a bucket with an extension that would have to be downloaded. See pipelines/cli/dlt_command.py.
"""

from collections.abc import Iterator
from typing import Any

from dlt.destinations.impl.duckdb.sql_client import DuckDBDBApiCursorImpl
from dlt.destinations.impl.filesystem.sql_client import FilesystemSqlClient
from marimo._cli.cli import main
from marimo._server.registry import MIDDLEWARE_REGISTRY
from starlette.middleware import Middleware

from .guard import only_own_pages

_in_chunks = DuckDBDBApiCursorImpl.iter_arrow


def _iter_arrow(self: Any, chunk_size: int) -> Iterator[Any]:
    if chunk_size:
        yield from _in_chunks(self, chunk_size)
    else:
        yield self.native_cursor.to_arrow_reader().read_all()


def _read_through_python(self: Any, *_: Any, **__: Any) -> bool:
    """As pipelines/ask.py does."""
    if self.remote_client.config.protocol != "file":
        self._register_filesystem(self.remote_client.fs_client, self.remote_client.config.protocol)
    return True


def run() -> None:
    """Marimo's own command line."""
    DuckDBDBApiCursorImpl.iter_arrow = _iter_arrow  # type: ignore[assignment, method-assign]
    FilesystemSqlClient.create_secret = _read_through_python  # type: ignore[method-assign]
    MIDDLEWARE_REGISTRY.register("only_own_pages", Middleware(only_own_pages))
    main(prog_name="marimo")
