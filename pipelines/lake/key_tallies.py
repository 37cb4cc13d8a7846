"""Tallies of keys: they show that two sides hold the same events without comparing the ids.

The digest of an hour is the sum, modulo 2^64, of 60 bits of the MD5 of each event's key. So it needs no order, a double
shows, and PostgreSQL (`sql/completeness.sql`) and DuckDB (below) compute it alike, next to the data.
"""

import os
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.load.tally import NOTHING, Tally

if TYPE_CHECKING:
    import duckdb

KEYS = ["event_id", "timestamp"]

_COUNTED_ROWS = 100_000
"""Counted at once: 5 MB of keys. In tenths of that, they cost two and a half times as much."""

_TALLIES = """
    SELECT epoch_us("timestamp") // 3600000000 AS hour, count(*) AS events,
        sum(('0x0' || left(md5(event_id || ' ' || epoch_us("timestamp")), 15))::BIGINT)::VARCHAR AS digest
    FROM keys GROUP BY 1
"""


def tallies_of(keys: pa.Table) -> dict[datetime, Tally]:
    """Returns the tally of each hour that has an event; `keys` has at least the columns `KEYS`."""
    with _connected() as connection:
        return _tallies(connection, keys)


def tally_of(parts: Iterable[pa.Table]) -> Tally:
    """Returns the tally of all parts in one; each has at least the columns `KEYS`, which are held for a while."""
    total, pending, rows = NOTHING, list[pa.Table](), 0
    with _connected() as connection:
        for part in chain(parts, [None]):
            if part is not None:
                pending.append(part.select(KEYS))
                rows += part.num_rows
            if pending and (part is None or rows >= _COUNTED_ROWS):
                found = _tallies(connection, pa.concat_tables(pending)).values()
                total = Tally(total.events + sum(t.events for t in found), total.digest + sum(t.digest for t in found))
                pending, rows = [], 0
    return Tally(total.events, total.digest % 2**64)


def _connected() -> "duckdb.DuckDBPyConnection":
    """Returns a connection to the one database of this process: opening another for each tally costs 13 ms."""
    return _database(os.getpid()).cursor()


@cache
def _database(_: int) -> "duckdb.DuckDBPyConnection":
    import duckdb  # noqa: PLC0415  # 60 ms that the main job need not spend at every start

    return duckdb.connect()


def _tallies(connection: "duckdb.DuckDBPyConnection", keys: pa.Table) -> dict[datetime, Tally]:
    connection.register("keys", keys.select(KEYS))
    rows: Any = connection.sql(_TALLIES).to_arrow_table()
    return dict(map(Tally.of_row, rows.to_pylist()))
