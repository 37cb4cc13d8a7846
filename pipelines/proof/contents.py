"""Counts and digests of the events of an hour: they show that two sides hold the same without comparing the ids.

The digest of an hour is the sum, modulo 2^64, of 60 bits of the MD5 of each event's key. So it needs no order, a double
shows, and PostgreSQL (`sql/completeness.sql`) and DuckDB (below) compute it alike, next to the data.
"""

import decimal
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipelines.load.held_keys import microseconds
from pipelines.load.tally import Tally
from pipelines.warehouse.write import JSON_COLUMNS, storable_json
from sources.cloudflare_audit_logs.events import EventKey
from sources.cloudflare_audit_logs.schema import ADDED_COLUMNS, EVENT_SCHEMA

KEYS = ["event_id", "timestamp"]

_COMPARED = [name for name in EVENT_SCHEMA.names if name not in {"ingestion_time", *ADDED_COLUMNS}]
_ARROW_TALLIES = """
    SELECT epoch_us("timestamp") // 3600000000 AS hour, count(*) AS events,
        sum(('0x0' || left(md5(event_id || ' ' || epoch_us("timestamp")), 15))::BIGINT)::VARCHAR AS digest
    FROM keys GROUP BY 1
"""


def tallies_of(keys: pa.Table) -> dict[datetime, Tally]:
    """Returns the tally of each hour that has an event; `keys` has at least the columns `KEYS`."""
    import duckdb  # noqa: PLC0415  # 60 ms that the main job need not spend at every start

    with duckdb.connect() as connection:
        connection.register("keys", keys.select(KEYS))
        rows: Any = connection.sql(_ARROW_TALLIES).to_arrow_table()
    return dict(map(Tally.of_row, rows.to_pylist()))


def contents_of(events: pa.Table) -> Iterator[tuple[EventKey, str]]:
    """Yields the key of each event and a digest of its content.

    The digest covers all columns but the time of ingestion and those that older releases lack: `raw_event` has all.
    JSON counts by its meaning, as `jsonb` keeps it: order and spaces of an object, the form of a number and what
    PostgreSQL cannot hold (NUL, lone surrogates) make no difference.
    """
    for row in events.select(_COMPARED).to_pylist():
        key = row["event_id"], microseconds(row["timestamp"])
        parts = [_meaning(value) if name in JSON_COLUMNS and value else value for name, value in row.items()]
        yield key, hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)


def _meaning(text: str) -> str:
    try:
        tree = json.loads(storable_json(text), parse_float=_number, parse_int=_number)
        return json.dumps(tree, sort_keys=True, default=repr)
    except RecursionError:  # nested so deep that only its size is compared
        return str(len("".join(text.split())))


def _number(text: str) -> Decimal | str:
    try:
        number = Decimal(text)
        return _EXACT.normalize(number) if number else Decimal(0)
    except decimal.InvalidOperation:  # no number has such an exponent
        return text
