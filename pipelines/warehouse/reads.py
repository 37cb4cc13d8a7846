"""The warehouse's events of a window, and the results of its comparisons. Reads no event where its key will do."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

import pyarrow as pa
from adbc_driver_manager.dbapi import Connection

from pipelines.load.tally import Tally
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, PRIMARY_KEY, QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .connection import connect, table_of
from .destination import Warehouse
from .dlt_client import WarehouseClient
from .statements import sections_of
from .write import JSON_COLUMNS


class WarehouseReader:
    """Asks the warehouse through a connection of its own. Errors of the driver are raised as the warehouse's."""

    def __init__(self, warehouse: Warehouse, connection: Connection) -> None:
        self._warehouse, self._connection = warehouse, connection
        schema = warehouse.dataset_name
        key = " AND ".join(f'a."{name}" = q."{name}"' for name in PRIMARY_KEY)
        self._sections = sections_of(
            "completeness.sql",
            schema=schema,
            columns=", ".join(f'"{name}"' + "::text" * (name in JSON_COLUMNS) for name in EVENT_SCHEMA.names),
            quarantined=", ".join(f'"{name}"' for name in QUARANTINE_SCHEMA.names),
            is_nowhere_else=f"NOT EXISTS (SELECT FROM {schema}.audit_logs AS a WHERE {key})",
        )

    @property
    def oldest_kept(self) -> datetime | None:
        """Before it, the retention has deleted."""
        return self._warehouse.oldest_kept

    def translated_errors(self) -> AbstractContextManager[None]:
        """A block that raises the driver's errors as ours."""
        return self._warehouse.translated_errors()

    def tallies(self, stream: Stream, window: Window) -> dict[datetime, Tally]:
        """The tally of each hour in which there is an event."""
        return dict(map(Tally.of_row, self._in_window("tallies", stream, window).to_pylist()))

    def days(self, account_id: str, window: Window) -> set[datetime]:
        """The days that have an event of an account, or had one when they were last found complete."""
        return set(self._ask("days", account_id, window.since, window.before)["day"].to_pylist())

    def keys(self, stream: Stream, window: Window) -> pa.Table:
        """`event_id` and `timestamp` of each event, those included that are quarantined here."""
        return self._in_window("keys", stream, window)

    def events(self, stream: Stream, window: Window) -> pa.Table:
        """The events whole, JSON as PostgreSQL writes it."""
        return self._in_window("events", stream, window).rename_columns(EVENT_SCHEMA.names).cast(EVENT_SCHEMA)

    def quarantined_digests(self, stream: Stream) -> list[str]:
        """The digests of the events that could not be placed in any store, of all times."""
        digests: list[str] = self._query("quarantined digests", stream)["digest"].to_pylist()
        return digests

    def quarantined(self, stream: Stream, digests: Iterable[str]) -> pa.Table:
        """Some of these events."""
        return self._query("quarantined", stream, ",".join(digests)).cast(QUARANTINE_SCHEMA)

    def latest_checks(self, stream: Stream, window: Window) -> dict[datetime, dict[str, Any]]:
        """By hour, its newest check."""
        return {row["hour"]: row for row in self._in_window("latest checks", stream, window).to_pylist()}

    def known_events(self, stream: Stream, window: Window) -> dict[datetime, int]:
        """By hour, how many events there were when it was last found complete."""
        rows = self._in_window("known events", stream, window).to_pylist()
        return {row["hour"]: row["events"] for row in rows}

    def record(self, checks: pa.Table) -> None:
        """Keeps the results of checks."""
        schema = self._warehouse.dataset_name
        with self.translated_errors(), self._connection.cursor() as cursor:
            cursor.adbc_ingest("audit_completeness", checks, mode="append", db_schema_name=schema)

    def _in_window(self, section: str, stream: Stream, window: Window) -> pa.Table:
        return self._query(section, stream, window.since, window.before)

    def _query(self, section: str, stream: Stream, *more: Any) -> pa.Table:
        return self._ask(section, stream.account_id, stream.api_version, *more)

    def _ask(self, section: str, *parameters: Any) -> pa.Table:
        with self.translated_errors(), self._connection.cursor() as cursor:
            return table_of(cursor, *self._sections[section], *parameters)


@contextmanager
def read_warehouse(warehouse: Warehouse, client: WarehouseClient) -> Iterator[WarehouseReader]:
    """A reader of a warehouse that is open."""
    with warehouse.translated_errors():
        connection = connect(client.config.credentials, autocommit=True)
    with connection:
        yield WarehouseReader(warehouse, connection)
