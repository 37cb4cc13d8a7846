"""What the warehouse says of its own health: cursors, delays, gaps, quarantine, size. Changes nothing.

Each question costs what lies in its window of time (`sql/health.sql`), however long the history is.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from adbc_driver_manager.dbapi import Connection

from pipelines.host.side_by_side import STATEMENT_TIMEOUT_SQL
from pipelines.load.store import client_of, positions_of
from pipelines.settings.settings import StoreSettings
from sources.cloudflare_audit_logs import Position
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Stream

from .connection import connect, transaction_on
from .destination import Warehouse
from .measured_lag import MeasuredLag
from .statements import sections_of
from .states import stored_states
from .upkeep import find, look_where_timescale_is


class OpenGap(NamedTuple):
    """An hour of a stream, as its newest comparison found it."""

    stream: Stream
    hour: datetime
    counts: Mapping[str, int]
    """Of events, by what is wrong with them."""


class StreamHealth(NamedTuple):
    """What the warehouse holds of a stream."""

    today: int
    """Events of this day, UTC."""
    lag: MeasuredLag
    hours: int
    """Compared with API and lake in the last 90 days."""
    quarantined: int
    """Up to 10,000 are counted."""


class WarehouseHealth:
    """Asks through one connection. Errors of the driver are for the caller to translate."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection, self._schema = connection, schema
        self._sections = sections_of("health.sql", schema=schema)

    @property
    def has_events(self) -> bool:
        """True if the tables have been made."""
        return bool(self._row("tables")["events"])

    def positions(self) -> dict[Stream, Position]:
        """Where each stream's cursor stands, whatever shard loads it."""
        with transaction_on(self._connection) as cursor:
            return positions_of(*stored_states(cursor, self._schema))

    def last_load(self) -> datetime | None:
        """When something was loaded last."""
        return self._row("last load")["at"] if self._row("tables")["loads"] else None

    def lag(self, stream: Stream, safety_lag_seconds: float) -> MeasuredLag:
        """How long the stream's events took to come."""
        return MeasuredLag(**self._row("lag", stream.account_id, stream.api_version, safety_lag_seconds))

    def stream(self, stream: Stream, safety_lag_seconds: float) -> StreamHealth:
        """All there is to say of a stream."""
        of = (stream.account_id, stream.api_version)
        return StreamHealth(
            today=self._row("today", *of)["events"],
            lag=self.lag(stream, safety_lag_seconds),
            hours=self._row("compared", *of)["hours"],
            quarantined=self._row("quarantined", *of)["events"],
        )

    def open_gaps(self) -> list[OpenGap]:
        """Hours of all streams and times whose newest comparison found a gap; up to 10,000."""
        wrong = {
            "missing_in_warehouse": "events missing in the warehouse",
            "missing_in_lake": "events missing in the lake",
        }
        wrong |= {"doubled_in_lake": "events doubled in the lake", "differing": "events that differ"}
        return [
            OpenGap(
                Stream(row["account_id"], row["api_version"]),
                row["hour"],
                {what: row[column] for column, what in wrong.items()},
            )
            for row in self._rows("open gaps")
        ]

    def size(self) -> dict[str, int]:
        """Bytes of the table with its indexes, and how many events PostgreSQL reckons there are."""
        found = find(self._connection, self._schema)
        with transaction_on(self._connection) as cursor:
            look_where_timescale_is(cursor, found)
            cursor.execute(self._sections["size" if found.chunk_days is None else "size, hypertable"][0])
            return dict(cursor.fetch_arrow_table().to_pylist()[0])

    def _row(self, section: str, *parameters: Any) -> dict[str, Any]:
        return self._rows(section, *parameters)[0]

    def _rows(self, section: str, *parameters: Any) -> list[dict[str, Any]]:
        with transaction_on(self._connection) as cursor:
            cursor.execute(self._sections[section][0], parameters or None)
            rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return rows


def open_gaps(stores: StoreSettings) -> list[OpenGap] | None:
    """See WarehouseHealth; None if nothing was ever loaded into the warehouse. Raises as `warehouse_health`."""
    with _connected(stores) as health:
        return health.open_gaps() if health.has_events else None


@contextmanager
def warehouse_health(stores: StoreSettings) -> Iterator[WarehouseHealth]:
    """A warehouse that has its tables, to be asked; no table is made.

    Raises:
        TemporaryError: it is down.
        AuditLogsError: nothing was ever loaded into it.
    """
    with _connected(stores) as health:
        if not health.has_events:
            hint = "the first start of pipelines/run.py makes it"
            raise AuditLogsError(f"there is no table {stores.postgres_schema}.audit_logs yet", hint=hint)
        yield health


@contextmanager
def _connected(stores: StoreSettings) -> Iterator[WarehouseHealth]:
    warehouse = Warehouse.of(stores)
    with warehouse.translated_errors(), connect(client_of(warehouse).config.credentials) as connection:
        with transaction_on(connection) as cursor:
            cursor.execute(STATEMENT_TIMEOUT_SQL)
        yield WarehouseHealth(connection, stores.postgres_schema)
