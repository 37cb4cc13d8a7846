"""Writes one batch of events into PostgreSQL: one transaction, idempotent, and no event holds up another.

The batch goes by COPY into a temporary table and from there by `INSERT … ON CONFLICT DO NOTHING` on the event's key,
which costs the same however large the table is. If that is refused for what may be a row's fault, the rows are tried
one by one (`refused_rows`), and those that PostgreSQL refuses are quarantined.
"""

import hashlib
import re
from collections.abc import Iterator
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

from .connection import is_of_environment, sqlstate_of
from .refused_rows import Refusal, insert_by_row
from .staged import Staged, verify_written

JSON_COLUMNS = ("metadata", "raw_event")

PAUSE_LIMIT_SECONDS = 10
"""How long the server lets a load's transaction stand still before it ends it."""


def load_events(connection: Connection, schema: str, events: pa.Table, *, table: str = EVENTS_TABLE) -> pa.Table:
    """Inserts the events that the table lacks and returns what was quarantined instead, as it lies there.

    The connection is in autocommit mode: ADBC's own transactions refuse ROLLBACK TO SAVEPOINT after an error.

    Raises:
        adbc_driver_manager.Error: whatever is not the fault of a row; nothing of the batch is written then.
        AuditLogsError: an event was neither written nor there before; nothing of the batch is written then.
    """
    events = _storable(events)
    staged = Staged("staged_batch", _qualified(schema, table), PRIMARY_KEY, JSON_COLUMNS)
    with connection.cursor() as cursor, _transaction(cursor):
        refused = _quarantined(events, _insert(cursor, staged, events))
        if refused.num_rows:
            _insert_quarantined(cursor, schema, refused)
    return refused


def load_quarantined(connection: Connection, schema: str, quarantined: pa.Table) -> None:
    """Inserts the quarantined events that the table lacks. As `load_events`, but nothing of it can be refused."""
    with connection.cursor() as cursor, _transaction(cursor):
        _insert_quarantined(cursor, schema, quarantined)


def update_events(connection: Connection, schema: str, events: pa.Table) -> None:
    """Makes the events that the table has what they should be; when they were first seen stays."""
    staged = Staged("staged_batch", _qualified(schema, EVENTS_TABLE), PRIMARY_KEY, JSON_COLUMNS)
    columns = [name for name in EVENT_SCHEMA.names if name not in {*PRIMARY_KEY, "ingestion_time"}]
    values = ", ".join(f'"{name}" = {staged.value(name)}' for name in columns)
    with connection.cursor() as cursor, _transaction(cursor):
        staged.fill(cursor, _storable(events))
        cursor.execute(
            f"UPDATE {staged.target} AS t SET {values} FROM {staged.name} AS s WHERE {staged.is_same}"  # noqa: S608  # names are ours
        )


@contextmanager
def _transaction(cursor: Cursor) -> Iterator[None]:
    cursor.execute("BEGIN")
    # A process that is paused in here holds its rows' keys: others that load the same rows would wait for it.
    cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{PAUSE_LIMIT_SECONDS}s'")
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what is refused at COMMIT alone could not be told from the rest
    try:
        yield
    except BaseException:
        with suppress(adbc_driver_manager.Error):  # a lost connection has rolled back by itself
            cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")


def _insert_quarantined(cursor: Cursor, schema: str, quarantined: pa.Table) -> None:
    staged = Staged("staged_quarantine", _qualified(schema, QUARANTINE_TABLE), QUARANTINE_KEY)
    _insert_batch(cursor, staged, _without_nul(quarantined))


def _without_nul(quarantined: pa.Table) -> pa.Table:
    """A raw NUL may stand in what a broken answer held, or in an id; text columns refuse it."""
    for number, field in enumerate(quarantined.schema):
        if field.type == pa.string():
            texts = pc.replace_substring(quarantined[field.name], "\x00", "\\u0000")
            quarantined = quarantined.set_column(number, field, texts)
    return quarantined


def _insert(cursor: Cursor, staged: Staged, batch: pa.Table) -> list[Refusal]:
    """Inserts what PostgreSQL accepts; returns what it does not, row by row."""
    cursor.execute("SAVEPOINT batch")
    try:
        _insert_batch(cursor, staged, batch)
    except adbc_driver_manager.Error as error:
        if is_of_environment(sqlstate_of(error)):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT batch")
        return insert_by_row(cursor, staged, batch)
    return []


def _insert_batch(cursor: Cursor, staged: Staged, batch: pa.Table) -> None:
    staged.fill(cursor, batch)
    columns, values = staged.columns(batch), staged.values(batch)
    cursor.execute(
        f"INSERT INTO {staged.target} ({columns}) SELECT {values} FROM {staged.name} AS s {staged.on_conflict}"  # noqa: S608  # names are ours
    )
    if cursor.rowcount < batch.num_rows:
        verify_written(cursor, staged)


def _qualified(schema: str, table: str) -> str:
    return f'{schema}."{table}"'


def _quarantined(events: pa.Table, refusals: list[Refusal]) -> pa.Table:
    """The refused events as they lie in the quarantine."""
    reasons = {refusal.row: f"refused by PostgreSQL ({refusal.sqlstate}): {refusal.words}" for refusal in refusals}
    rows = [
        {
            **{name: event.get(name) for name in QUARANTINE_SCHEMA.names},
            "digest": hashlib.sha256(event["raw_event"].encode()).hexdigest(),
            "received_at": event["ingestion_time"],
            "reason": reason,
        }
        for event, reason in zip(
            events.take(pa.array(list(reasons), pa.int64())).to_pylist(), reasons.values(), strict=True
        )
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


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
