"""The lake as DuckDB sees it: a database in memory with the macros of `lake.sql`, and the files that it reads.

An answer is that of one moment, as far as each object goes: what is replaced or removed while a question is asked makes
it be asked again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from pipelines.lake.objects import ConflictError
from sources.cloudflare_audit_logs.errors import TemporaryError

from .files import AT_ONCE, SCHEME, LakeFiles
from .places import Place

LAKE_SQL = Path(__file__).parent.with_name("lake.sql")
_ATTEMPTS = 5

T = TypeVar("T")


@contextmanager
def lake_database(files: LakeFiles, **config: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the database. Nothing of the lake is read before a question asks for it."""
    of_bucket = {} if files.place.is_local else {"threads": AT_ONCE}
    with duckdb.connect(config={"enable_external_file_cache": False, **of_bucket, **config}) as database:
        database.register_filesystem(files)
        database.execute(f"SET VARIABLE lake = '{SCHEME}:/'")
        database.execute(LAKE_SQL.read_text())
        yield database


def ask_lake(place: Place, ask: Callable[[duckdb.DuckDBPyConnection, LakeFiles], T], **config: Any) -> T:
    """Asks a question, and again while objects change under it; `ask` must be repeatable.

    Raises:
        duckdb.Error: DuckDB cannot answer it.
        AuditLogsError: the lake is not available.
        TemporaryError: objects are replaced all the time.
    """
    files = LakeFiles(place)
    for _ in range(_ATTEMPTS):
        error: Exception | None = None
        with lake_database(files, **config) as database:
            try:
                answer = ask(database, files)
            except (duckdb.Error, ConflictError) as its:
                error = files.failure or its
        again = files.again()
        if again is not None:
            files = again
        elif error is not None:
            raise error
        else:
            return answer
    raise TemporaryError("objects of the lake are replaced all the time", detail=f"asked {_ATTEMPTS} times")
