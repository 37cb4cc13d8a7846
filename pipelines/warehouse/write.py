"""Writes one batch of events into PostgreSQL: one transaction, idempotent, and no event holds up another.

The batch goes by COPY into a temporary table and from there by `INSERT … ON CONFLICT DO NOTHING` on the event's key,
which costs the same however large the table is. If an error may be a row's fault, the rows are inserted one by one
inside the server, and those that PostgreSQL refuses are quarantined. Halving the batch on our side found one row in 27
rounds, but took 20,000 for a batch of 10,000 that was refused whole.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager.dbapi import Connection, Cursor

from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import (
    EVENT_SCHEMA,
    EVENTS_TABLE,
    PRIMARY_KEY,
    QUARANTINE_KEY,
    QUARANTINE_SCHEMA,
    QUARANTINE_TABLE,
    TIME,
)

from .connection import OF_ENVIRONMENT, is_of_environment, rows_of, sqlstate_of, value_of

JSON_COLUMNS = ("metadata", "raw_event")

PAUSE_LIMIT_SECONDS = 10
"""The server ends a load's transaction that stands still for so long."""

_TYPES = {pa.string(): "text", pa.binary(): "bytea", pa.int64(): "bigint", TIME: "timestamptz"}
_OF_DATA = ("22", "23")
"""Classes of SQLSTATE that blame the row: data exception, integrity constraint."""
_REFUSED = "pg_temp.refused_rows"


def load_events(connection: Connection, schema: str, events: pa.Table, *, table: str = EVENTS_TABLE) -> pa.Table:
    """Inserts the events that the table lacks; returns those that were quarantined instead, as the quarantine has them.

    The connection is in autocommit mode: ADBC's own transactions refuse ROLLBACK TO SAVEPOINT after an error.

    Raises:
        adbc_driver_manager.Error: an error that is not the fault of a row; nothing of the batch is written then.
        AuditLogsError: an event was neither written nor there before; nothing of the batch is written then.
    """
    events = _storable(events)
    staged = _staged_events(schema, table)
    with _transaction(connection) as cursor:
        cursor.execute("SAVEPOINT batch")
        try:
            _insert_batch(cursor, staged, events)
            refusals = []
        except adbc_driver_manager.Error as error:
            if is_of_environment(sqlstate_of(error)):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT batch")
            refusals = _insert_by_row(cursor, staged, events)
        refused = _quarantined(events, refusals)
        if refusals:
            _insert_quarantined(cursor, schema, refused)
    return refused


def load_quarantined(connection: Connection, schema: str, quarantined: pa.Table) -> None:
    """Inserts the quarantined events that the table lacks. As `load_events`, but none of them can be refused."""
    with _transaction(connection) as cursor:
        _insert_quarantined(cursor, schema, quarantined)


def update_events(connection: Connection, schema: str, events: pa.Table) -> None:
    """Replaces the values of the events that the table has; their ingestion time stays."""
    staged = _staged_events(schema, EVENTS_TABLE)
    columns = [name for name in EVENT_SCHEMA.names if name not in {*PRIMARY_KEY, "ingestion_time"}]
    values = ", ".join(f'"{name}" = {staged.value(name)}' for name in columns)
    with _transaction(connection) as cursor:
        staged.fill(cursor, _storable(events))
        cursor.execute(
            f"UPDATE {staged.target} AS t SET {values} FROM {staged.name} AS s WHERE {staged.is_same}"  # noqa: S608  # names are ours
        )


@contextmanager
def _transaction(connection: Connection) -> Iterator[Cursor]:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        # A process that is paused in here holds its rows' keys: others that load the same rows would wait for it.
        cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{PAUSE_LIMIT_SECONDS}s'")
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # an error that comes at COMMIT alone blames no row
        try:
            yield cursor
        except BaseException:
            with suppress(adbc_driver_manager.Error):  # a lost connection has rolled back by itself
                cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")


# --- a batch in its temporary table ----------------------------------------------------------------------------------


class _Staged(NamedTuple):
    """A batch in a temporary table, which is gone with the transaction, and the table that it goes to."""

    table: str
    target: str
    key: Collection[str]
    json_columns: Collection[str] = ()
    is_binary: bool = False
    """Texts are staged as bytes: then COPY refuses no text, and the INSERT checks each value."""

    @property
    def name(self) -> str:
        """The temporary table, whatever a role's `search_path` has before it."""
        return f"pg_temp.{self.table}"

    @property
    def is_same(self) -> str:
        """True of a staged row (`s`) and a row of the target (`t`) with one key."""
        return " AND ".join(f't."{name}" = {self.value(name)}' for name in self.key)

    def value(self, name: str) -> str:
        """The column of a staged row (`s`), of the target's type."""
        is_text = self.is_binary and name not in {"timestamp", "ingestion_time", "received_at"}
        # The encoding's name would give the text the collation "C", for which the key's index is of no use: quadratic.
        value = f'(convert_from(s."{name}", \'UTF8\') COLLATE "default")' if is_text else f's."{name}"'
        return value + "::jsonb" * (name in self.json_columns)

    def insert(self, values: Mapping[str, str], source: str = "") -> str:
        """The statement that inserts these values of columns unless the key is there.

        It names the key: against another unique index, that of an administrator, an event must not vanish unheard.
        """
        columns, selected = _listed(values), ", ".join(values.values())
        return f"INSERT INTO {self.target} ({columns}) SELECT {selected}{source} ON CONFLICT ({_listed(self.key)}) DO NOTHING"  # noqa: E501  # names are ours

    def fill(self, cursor: Cursor, batch: pa.Table) -> None:
        """Makes the temporary table, and copies the batch into it."""
        columns = ", ".join(f'"{column.name}" {_TYPES[column.type]}' for column in batch.schema)
        cursor.execute(f"CREATE TEMPORARY TABLE {self.table} ({columns}) ON COMMIT DROP")
        cursor.adbc_ingest(self.table, batch, mode="append", temporary=True)


def _staged_events(schema: str, table: str) -> _Staged:
    return _Staged("staged_batch", f'{schema}."{table}"', PRIMARY_KEY, JSON_COLUMNS)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _insert_batch(cursor: Cursor, staged: _Staged, batch: pa.Table) -> None:
    staged.fill(cursor, batch)
    cursor.execute(
        staged.insert({name: staged.value(name) for name in batch.column_names}, f" FROM {staged.name} AS s")
    )
    if cursor.rowcount < batch.num_rows:
        _verify_written(cursor, staged)


def _verify_written(cursor: Cursor, staged: _Staged) -> None:
    """Checks that each staged row is in the target, be it for its conflict: something may drop rows without an error.

    `OFFSET 0` makes PostgreSQL ask the key's index, row by row, instead of reading the target for a join.
    """
    missing = value_of(
        cursor,
        f"SELECT count(*) FROM {staged.name} AS s"  # noqa: S608  # names are ours
        f" WHERE NOT EXISTS (SELECT FROM {staged.target} AS t WHERE {staged.is_same} OFFSET 0)",
    )
    if missing:
        raise AuditLogsError(
            f"{missing:,} events were neither written to {staged.target} nor there before",
            hint="a trigger, a policy or an extension drops them without an error; nothing of this load counts",
        )


# --- rows that PostgreSQL refuses ------------------------------------------------------------------------------------


class _Refusal(NamedTuple):
    """A row that PostgreSQL refuses: its place in the batch, and PostgreSQL's words."""

    row: int
    sqlstate: str
    words: str


def _insert_by_row(cursor: Cursor, staged: _Staged, batch: pa.Table) -> list[_Refusal]:
    """Inserts the rows that the table accepts and lacks, each in a subtransaction; returns those that it refuses.

    An error is a row's if it is one of data, or if another row passes; else it is of all rows, and raised.
    """
    staged = staged._replace(table="staged_rows", is_binary=True)
    fields = [pa.field(field.name, pa.binary()) if field.type == pa.string() else field for field in batch.schema]
    numbers = pa.array(range(batch.num_rows), pa.int64())
    staged.fill(cursor, batch.cast(pa.schema(fields)).append_column("row_number", numbers))
    cursor.execute(f"CREATE TEMPORARY TABLE {_REFUSED} (row bigint, sqlstate text, words text) ON COMMIT DROP")
    cursor.execute(
        f"""DO $rows$
        DECLARE s record;
        BEGIN
            FOR s IN SELECT * FROM {staged.name} ORDER BY row_number LOOP
                BEGIN
                    {staged.insert({name: staged.value(name) for name in batch.column_names})};
                EXCEPTION WHEN OTHERS THEN
                    IF SQLSTATE ~ '^({"|".join(OF_ENVIRONMENT)})' THEN RAISE; END IF;
                    INSERT INTO {_REFUSED} VALUES (s.row_number, SQLSTATE, SQLERRM);
                END;
            END LOOP;
        END $rows$"""  # noqa: S608  # names are ours
    )
    refusals = [_Refusal(**row) for row in rows_of(cursor, f"SELECT * FROM {_REFUSED} ORDER BY row")]  # noqa: S608  # names are ours
    if len(refusals) == batch.num_rows and not all(refusal.sqlstate.startswith(_OF_DATA) for refusal in refusals):
        _insert_plain_row(cursor, staged)
    cursor.execute(f"DELETE FROM {staged.name} WHERE row_number IN (SELECT row FROM {_REFUSED})")  # noqa: S608  # names are ours
    _verify_written(cursor, staged)
    return refusals


def _insert_plain_row(cursor: Cursor, staged: _Staged) -> None:
    """Inserts a row with nothing in it that could be refused, and takes it back. Raises if it is refused as well."""
    values = {name: staged.value(name) for name in {*staged.key, "ingestion_time"}}
    values |= {"event_id": "'plain'", "raw_event": "'{}'"}
    cursor.execute("SAVEPOINT plain_row")
    cursor.execute(staged.insert(values, f" FROM {staged.name} AS s LIMIT 1"))
    cursor.execute("ROLLBACK TO SAVEPOINT plain_row")


def _quarantined(events: pa.Table, refusals: list[_Refusal]) -> pa.Table:
    """The refused events as the quarantine has them."""
    refused = events.take(pa.array([refusal.row for refusal in refusals], pa.int64())).to_pylist()
    rows = [
        {
            **{name: event.get(name) for name in QUARANTINE_SCHEMA.names},
            "digest": hashlib.sha256(event["raw_event"].encode()).hexdigest(),
            "received_at": event["ingestion_time"],
            "reason": f"refused by PostgreSQL ({refusal.sqlstate}): {refusal.words}",
        }
        for event, refusal in zip(refused, refusals, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def _insert_quarantined(cursor: Cursor, schema: str, quarantined: pa.Table) -> None:
    for number, field in enumerate(quarantined.schema):
        if field.type == pa.string():  # a broken answer, or an id, may have a raw NUL, which text columns refuse
            texts = pc.replace_substring(quarantined[field.name], "\x00", "\\u0000")
            quarantined = quarantined.set_column(number, field, texts)
    _insert_batch(cursor, _Staged("staged_quarantine", f'{schema}."{QUARANTINE_TABLE}"', QUARANTINE_KEY), quarantined)


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
        texts = events[column].combine_chunks()
        is_suspect = pc.fill_null(pc.match_substring_regex(texts, _SUSPECT), fill_value=False)
        if pc.any(is_suspect).as_py():
            cleaned = [storable_json(text) for text in texts.filter(is_suspect).to_pylist()]
            texts = pc.replace_with_mask(texts, is_suspect, pa.array(cleaned, pa.string()))
            number = events.schema.get_field_index(column)
            events = events.set_column(number, events.schema.field(column), texts)
    return events
