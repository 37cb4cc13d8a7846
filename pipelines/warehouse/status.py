"""The warehouse's own account of its health, for status and doctor: server, rights, cursors, delays, gaps, size.

Changes nothing. Each question costs what lies in its window of time (`sql/health.sql`), however long the history is.
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

from . import setup
from .connection import connect, rows_of, transaction_on, value_of
from .destination import Warehouse
from .lock import holders_sql
from .measured_lag import MeasuredLag
from .statements import sections_of
from .states import stored_states
from .upkeep import Found, find, look_where_timescale_is

_WRONG = {
    "missing_in_warehouse": "events missing in the warehouse",
    "missing_in_lake": "events missing in the lake",
    "doubled_in_lake": "events doubled in the lake",
    "differing": "events that differ",
}


class OpenGap(NamedTuple):
    """An hour of a stream, as its newest comparison found it."""

    stream: Stream
    hour: datetime
    counts: Mapping[str, int]  # of events, by what is wrong with them


class StreamHealth(NamedTuple):
    """The warehouse's numbers of a stream."""

    today: int  # events of this day, UTC
    lag: MeasuredLag
    hours: int  # compared with API and lake in the last 90 days
    quarantined: int  # up to 10,000 are counted


class WarehouseHealth:
    """Asks through one connection. Errors of the driver are for the caller to translate."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection, self._schema = connection, schema
        self._sections = sections_of("health.sql", schema=schema)

    # --- the server and its tables; each `check_…` raises an AuditLogsError ---

    @property
    def user(self) -> str:
        """The role, as the server knows it: a pooler may know it as `role.project`."""
        return str(self._query("SELECT current_user::text AS name")[0]["name"])

    def check_version(self) -> str:
        """PostgreSQL's version, which must be supported."""
        with transaction_on(self.connection) as cursor:
            return setup.check_version(value_of(cursor, setup.VERSION_SQL))

    def check_encoding(self) -> str:
        """The database's encoding, which must be supported."""
        with transaction_on(self.connection) as cursor:
            return setup.check_encoding(cursor)

    def check_timescale(self) -> Found:
        """The state of TimescaleDB, which must lose no events."""
        found = find(self.connection, self._schema)
        setup.check_timescale(found)
        return found

    def check_rights(self, maker: str) -> bool:
        """The role must read and insert, or the maker, which may be another role, must be able to make the tables.

        Returns True if there are tables.
        """
        user = self.user
        tables = self._row("tables")
        sections = sections_of("health.sql", schema=self._schema, maker=maker.replace("'", "''"))
        with transaction_on(self.connection) as cursor:
            (may,) = rows_of(cursor, *sections["rights"])
            if tables["events"]:
                setup.check_rights(cursor, self._schema, user, may_make=may["may_make_tables"])
            elif not may["may_make_tables"]:
                raise setup.missing_table(f"{self._schema}.audit_logs", maker)
        # Where an owner makes the schema, it grants the role to make dlt's tables there.
        if not tables["loads"] and not may["may_make_own"] and (tables["events"] or maker == user):
            hint = "GRANT it what pipelines/warehouse/sql/grants.sql says"
            raise AuditLogsError(f"{user} may not make dlt's tables in {self._schema}", hint=hint)
        return bool(tables["events"])

    def check_table(self, maker: str) -> bool:
        """The tables must have our key and columns, but for columns that the maker can add. False: no table."""
        if not self.has_events:
            return False
        with transaction_on(self.connection) as cursor:
            setup.check_key(cursor, self._schema)
            setup.check_columns(cursor, self._schema, maker=maker)
        return True

    def writers(self) -> list[str]:
        """The processes that hold the writer's lock or, of shards, the locks; on all hosts."""
        return [row["holder"] for row in self._query(holders_sql(self._schema))]

    # --- what was loaded ---

    @property
    def has_events(self) -> bool:
        """True if the tables have been made."""
        return bool(self._row("tables")["events"])

    def positions(self) -> dict[Stream, Position]:
        """The position of each stream's cursor, whatever shard loads it."""
        with transaction_on(self.connection) as cursor:
            return positions_of(*stored_states(cursor, self._schema))

    def last_load(self) -> datetime | None:
        """The time of the last load."""
        return self._row("last load")["at"] if self._row("tables")["loads"] else None

    def lag(self, stream: Stream, safety_lag_seconds: float) -> MeasuredLag:
        """The time that the stream's events took to come."""
        return MeasuredLag(**self._row("lag", stream.account_id, stream.api_version, safety_lag_seconds))

    def stream(self, stream: Stream, safety_lag_seconds: float) -> StreamHealth:
        """All numbers of a stream."""
        of = (stream.account_id, stream.api_version)
        return StreamHealth(
            today=self._row("today", *of)["events"],
            lag=self.lag(stream, safety_lag_seconds),
            hours=self._row("compared", *of)["hours"],
            quarantined=self._row("quarantined", *of)["events"],
        )

    def open_gaps(self) -> list[OpenGap]:
        """Hours of all streams and times whose newest comparison found a gap; up to 10,000."""
        wrong = (
            (Stream(row["account_id"], row["api_version"]), row["hour"], {_WRONG[name]: row[name] for name in _WRONG})
            for row in self._query(*self._sections["open gaps"])
        )
        return [OpenGap(*gap) for gap in wrong]

    def size(self) -> dict[str, int]:
        """Bytes of the table with its indexes, and PostgreSQL's estimate of the number of events."""
        found = find(self.connection, self._schema)
        with transaction_on(self.connection) as cursor:
            look_where_timescale_is(cursor, found)
            return rows_of(cursor, *self._sections["size" if found.chunk_days is None else "size, hypertable"])[0]

    def _row(self, section: str, *parameters: Any) -> dict[str, Any]:
        return self._query(*self._sections[section], *parameters)[0]

    def _query(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with transaction_on(self.connection) as cursor:
            return rows_of(cursor, sql, *parameters)


def open_gaps(stores: StoreSettings) -> list[OpenGap] | None:
    """See WarehouseHealth; None if nothing was ever loaded. Raises AuditLogsError if the warehouse is down."""
    with _connected(stores) as health:
        return health.open_gaps() if health.has_events else None


@contextmanager
def warehouse_health(stores: StoreSettings) -> Iterator[WarehouseHealth]:
    """The health of a warehouse that has its tables. Raises AuditLogsError if it has none, or is down."""
    with _connected(stores) as health:
        if not health.has_events:
            hint = "the first start of cloudflare-audit run makes it"
            raise AuditLogsError(f"there is no table {stores.postgres_schema}.audit_logs yet", hint=hint)
        yield health


@contextmanager
def _connected(stores: StoreSettings) -> Iterator[WarehouseHealth]:
    warehouse = Warehouse.of(stores)
    with warehouse.translated_errors(), connect(client_of(warehouse).config.credentials) as connection:
        with transaction_on(connection) as cursor:
            cursor.execute(STATEMENT_TIMEOUT_SQL)
        yield WarehouseHealth(connection, stores.postgres_schema)
