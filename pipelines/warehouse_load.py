"""Writes one batch of events into PostgreSQL: one transaction, idempotent, and no event holds up another.

The batch goes by COPY into a temporary table and from there by `INSERT … ON CONFLICT DO NOTHING` on the event's key,
which costs the same however large the table is. A row that PostgreSQL refuses as data is found by halving and
quarantined.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager.dbapi import Connection, Cursor

from sources.cloudflare_audit_logs.schema import (
    EVENT_SCHEMA,
    EVENTS_TABLE,
    PRIMARY_KEY,
    QUARANTINE_KEY,
    QUARANTINE_SCHEMA,
    QUARANTINE_TABLE,
)

JSON_COLUMNS = ("metadata", "raw_event")

PAUSE_LIMIT_SECONDS = 10
"""How long the server lets a load's transaction stand still before it ends it."""

_STAGE = "staged_batch"
_COLUMN_TYPES = {pa.string(): "text", pa.timestamp("us", tz="UTC"): "timestamptz"}

# Classes of SQLSTATE that blame the row: data exception, integrity constraint, program limit (an index entry of 8 KB).
_REFUSALS = ("22", "23", "54")


def load_events(connection: Connection, schema: str, events: pa.Table, *, table: str = EVENTS_TABLE) -> pa.Table:
    """Inserts the events that the table lacks and returns what was quarantined instead, as it lies there.

    The connection is in autocommit mode: ADBC's own transactions refuse ROLLBACK TO SAVEPOINT after an error.

    Raises:
        adbc_driver_manager.Error: whatever is not the fault of a row; nothing of the batch is written then.
    """
    events = _storable(events)
    with connection.cursor() as cursor, _transaction(cursor):
        _create_stage(cursor, EVENT_SCHEMA)
        rows = [_as_quarantined(row, reason) for row, reason in _insert(cursor, _qualified(schema, table), events)]
        refused = pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *rows])
        if rows:
            cursor.execute(f"DROP TABLE {_STAGE}")
            _insert_quarantined(cursor, schema, refused)
    return refused


def load_quarantined(connection: Connection, schema: str, quarantined: pa.Table) -> None:
    """Inserts the quarantined events that the table lacks. As `load_events`, but nothing of it can be refused."""
    with connection.cursor() as cursor, _transaction(cursor):
        _insert_quarantined(cursor, schema, quarantined)


def update_events(connection: Connection, schema: str, events: pa.Table) -> None:
    """Makes the events that the table has what they should be; when they were first seen stays."""
    columns = [name for name in EVENT_SCHEMA.names if name not in {*PRIMARY_KEY, "ingestion_time"}]
    values = ", ".join(f'"{name}" = s."{name}"' + "::jsonb" * (name in JSON_COLUMNS) for name in columns)
    is_same = " AND ".join(f'e."{name}" = s."{name}"' for name in PRIMARY_KEY)
    with connection.cursor() as cursor, _transaction(cursor):
        _create_stage(cursor, EVENT_SCHEMA)
        cursor.adbc_ingest(_STAGE, _storable(events), mode="append", temporary=True)
        cursor.execute(
            f"UPDATE {_qualified(schema, EVENTS_TABLE)} AS e SET {values} FROM {_STAGE} AS s WHERE {is_same}"  # noqa: S608  # names are ours
        )


@contextmanager
def _transaction(cursor: Cursor) -> Iterator[None]:
    cursor.execute("BEGIN")
    # A process that is paused in here holds its rows' keys: others that load the same rows would wait for it.
    cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{PAUSE_LIMIT_SECONDS}s'")
    try:
        yield
    except BaseException:
        with suppress(adbc_driver_manager.Error):  # a lost connection has rolled back by itself
            cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")


def _insert_quarantined(cursor: Cursor, schema: str, quarantined: pa.Table) -> None:
    # A raw NUL is not JSON, but may stand in what a broken answer held; text columns refuse it.
    raw = pc.replace_substring(quarantined["raw_event"], "\x00", "\\u0000")
    quarantined = quarantined.set_column(QUARANTINE_SCHEMA.get_field_index("raw_event"), "raw_event", raw)
    _create_stage(cursor, QUARANTINE_SCHEMA)
    _insert_batch(cursor, _qualified(schema, QUARANTINE_TABLE), quarantined, QUARANTINE_KEY)


def _insert(cursor: Cursor, table: str, batch: pa.Table) -> Iterator[tuple[pa.Table, str]]:
    """Inserts what PostgreSQL accepts; yields each row that it does not, with the reason."""
    cursor.execute("SAVEPOINT batch")
    try:
        _insert_batch(cursor, table, batch, PRIMARY_KEY, JSON_COLUMNS)
    except adbc_driver_manager.Error as error:
        if not (error.sqlstate or "").startswith(_REFUSALS):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT batch")
        if batch.num_rows == 1:
            yield batch, _first_line(error)
            return
        half = batch.num_rows // 2
        yield from _insert(cursor, table, batch.slice(0, half))
        yield from _insert(cursor, table, batch.slice(half))


def _insert_batch(
    cursor: Cursor, table: str, batch: pa.Table, key: Collection[str], json_columns: Collection[str] = ()
) -> None:
    cursor.adbc_ingest(_STAGE, batch, mode="append", temporary=True)
    columns = ", ".join(f'"{name}"' for name in batch.column_names)
    values = ", ".join(f'"{name}"::jsonb' if name in json_columns else f'"{name}"' for name in batch.column_names)
    # With its target: against another unique index, that of an administrator, an event must not vanish unheard.
    conflict = ", ".join(f'"{name}"' for name in key)
    cursor.execute(
        f"INSERT INTO {table} ({columns}) SELECT {values} FROM {_STAGE} ON CONFLICT ({conflict}) DO NOTHING"  # noqa: S608  # names are ours
    )
    cursor.execute(f"TRUNCATE {_STAGE}")


def _qualified(schema: str, table: str) -> str:
    return f'{schema}."{table}"'


def _create_stage(cursor: Cursor, schema: pa.Schema) -> None:
    columns = ", ".join(f'"{column.name}" {_COLUMN_TYPES[column.type]}' for column in schema)
    cursor.execute(f"CREATE TEMPORARY TABLE {_STAGE} ({columns}) ON COMMIT DROP")


def _as_quarantined(row: pa.Table, reason: str) -> pa.Table:
    event = row.to_pylist()[0]
    quarantined = {
        **{name: event.get(name) for name in QUARANTINE_SCHEMA.names},
        "digest": hashlib.sha256(event["raw_event"].encode()).hexdigest(),
        "received_at": event["ingestion_time"],
        "reason": reason,
    }
    return pa.Table.from_pylist([quarantined], schema=QUARANTINE_SCHEMA)


def _first_line(error: adbc_driver_manager.Error) -> str:
    """PostgreSQL's own words, without the query before them."""
    text = str(error).partition("ERROR:")[2] or str(error)
    return f"refused by PostgreSQL ({error.sqlstate}): {text.strip().splitlines()[0]}"


# --- JSON that jsonb can hold ----------------------------------------------------------------------------------------

_SUSPECT = r"\\u(0000|[dD][89a-fA-F])"
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair of surrogates: a character
    r"|(?P<refused>\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\.",  # any other escape, a backslash among them
    re.DOTALL,
)


def storable_json(text: str) -> str:
    """The JSON text with U+FFFD for what jsonb refuses: an escaped NUL and lone surrogates. All else as it was."""
    return _ESCAPE.sub(lambda match: "\\ufffd" if match["refused"] else match[0], text)


def _storable(events: pa.Table) -> pa.Table:
    for column in JSON_COLUMNS:
        events = _with_storable_json(events, column)
    return events


def _with_storable_json(events: pa.Table, column: str) -> pa.Table:
    is_suspect = pc.fill_null(pc.match_substring_regex(events[column], _SUSPECT), fill_value=False).combine_chunks()
    if not pc.any(is_suspect).as_py():
        return events
    texts = events[column].combine_chunks()
    cleaned = [storable_json(text) for text in texts.filter(is_suspect).to_pylist()]
    texts = pc.replace_with_mask(texts, is_suspect, pa.array(cleaned, pa.string()))
    return events.set_column(events.schema.get_field_index(column), events.schema.field(column), texts)
