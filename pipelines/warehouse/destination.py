"""The warehouse as a store: its tables, the writer's lock, what it holds, and how its errors are reported."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from adbc_driver_manager.dbapi import Connection
from dlt.destinations.impl.postgres.postgres import PostgresClient

from pipelines.host.file_lock import HeldElsewhereError
from pipelines.host.logs import log
from pipelines.load.dlt_settings import verify_hooks
from pipelines.load.store import Refused, client_of
from pipelines.settings.settings import OwnerSettings, StoreSettings, TimescaleSettings
from pipelines.settings.shards import WHOLE, Shard
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.events import EventKey, event_keys
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE, QUARANTINE_TABLE
from sources.cloudflare_audit_logs.streams import Stream, Window

from .connection import as_ours, as_owner, connect, table_of
from .dlt_client import STARTED, AuditWarehouse, Session, WarehouseClient
from .lock import holders_sql, is_held_sql, lock_keys, pooled, refuse_pooling
from .setup import set_up
from .statements import statements_of
from .states import PIPELINE_NAME, stored_states
from .upkeep import Outcome, prepare
from .write import load_events, load_quarantined

_SESSION = f"SELECT pid, {STARTED} AS started FROM pg_stat_activity WHERE pid = pg_backend_pid()"  # noqa: S608  # names are ours
_NAME = "SELECT set_config('application_name', 'shard {shard} ' || current_setting('application_name'), false)"
_KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""A host that vanished must not hold the lock for TCP's two hours."""
_OF_STREAM = "account_id = $1 AND api_version = $2"


def refuse_others(programs: list[str]) -> None:
    """For a process that must be the only one that loads: raises TemporaryError."""
    hint = "stop all loops of this warehouse first"
    raise TemporaryError("loops of other shards load this warehouse", detail=", ".join(programs), hint=hint)


class Warehouse:
    """A `Store` in PostgreSQL."""

    name = "warehouse"

    def __init__(
        self,
        schema: str,
        *,
        timescale: TimescaleSettings,
        owner: OwnerSettings | None = None,
        shard: Shard = WHOLE,
        ensure_server: Callable[[], None] = lambda: None,
        on_others: Callable[[list[str]], None] = refuse_others,
        embedded_in: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`on_others` is called with the loops that divide the accounts in another way, once the lock is taken."""
        self.dataset_name, self.pipeline_name = schema, PIPELINE_NAME + shard.suffix
        self._timescale, self._owner, self._shard = timescale, owner, shard
        self._ensure_server, self._on_others, self._clock = ensure_server, on_others, clock
        self._hint = "check PG_HOST, PG_PORT, PG_DATABASE, PG_USER, PG_PASSWORD and PG_SSLMODE"
        self._hint += ", PG_OWNER_USER and PG_OWNER_PASSWORD" if owner else ""
        if embedded_in is not None:
            self._hint = (
                f"it is the embedded PostgreSQL: see server.log in {embedded_in}; the next poll starts it again"
            )
        self.connection: Connection | None = None
        """Holds the writer's lock, and is used for all questions."""
        self.session: Session | None = None
        """The connection's session, if it holds the lock."""
        self._refused: Counter[Stream] = Counter()

    @classmethod
    def of(cls, stores: StoreSettings, **own: Any) -> "Warehouse":
        """The warehouse of the settings."""
        own["embedded_in"] = None if stores.postgres else stores.postgres_dir
        return cls(stores.postgres_schema, timescale=stores.timescale, owner=stores.postgres_owner, **own)

    def destination(self) -> AuditWarehouse:
        """See Store."""
        destination = AuditWarehouse(destination_name="postgres")
        destination.store = self
        return destination

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raises errors of the drivers and of dlt as ours: PostgreSQL's words, no statement."""
        try:
            yield
        except AuditLogsError:
            raise
        except Exception as error:
            if (ours := as_ours(error, hint=self._hint)) is None:
                raise
            raise ours from error

    @property
    def oldest_kept(self) -> datetime | None:
        """Before it, the retention has deleted: loading it again would bring it back."""
        days = self._timescale.retention_days
        return self._clock() - timedelta(days=days) if days else None

    def open(self, client: PostgresClient, *, takes_lock: bool) -> None:
        """Makes the tables, and takes the writer's lock if asked to. Safe to repeat.

        Raises:
            TemporaryError: another process loads this schema, or the server is down.
            AuditLogsError: the tables are not ours, or missing and not ours to make.
        """
        self.close()
        self._ensure_server()
        credentials = client.config.credentials
        with self.translated_errors():
            self.connection = connect(credentials)
            refuse_pooling(self.connection, credentials)
            if takes_lock:
                self._take_lock()
            self.connection.commit()  # or what is set would go with the first failure
            set_up(self.connection, credentials, self._owner, self.dataset_name)
            self.connection.adbc_connection.set_autocommit(enabled=True)

    def _take_lock(self) -> None:
        for name, seconds in _KEEPALIVES.items():
            self._query(f"SELECT set_config('{name}', '{seconds}', false)")
        if self._shard != WHOLE:
            self._query(_NAME.format(shard=self._shard))
        if not self._is_true(f"pg_try_advisory_lock({lock_keys(self.pipeline_name, self.dataset_name)})"):
            holders = self._query(holders_sql(self.dataset_name, among={self.pipeline_name}))["holder"].to_pylist()
            raise HeldElsewhereError(
                "another process loads this warehouse",
                detail=f"held by {', '.join(holders)}",
                hint="one loop per warehouse (or shard of its accounts): stop the other one",
            )
        self.session = Session(**self._query(_SESSION).to_pylist()[0])
        own = {PIPELINE_NAME + shard.suffix for shard in self._shard.all}
        if others := self._query(holders_sql(self.dataset_name, but=own))["program"].to_pylist():
            self._on_others(others)

    def states(self, client: PostgresClient) -> list[Any]:  # noqa: ARG002  # a store's signature
        """See Store."""
        with self.translated_errors(), self._opened.cursor() as cursor:
            return stored_states(cursor, self.dataset_name)

    def verify_lock(self) -> None:
        """Raises AuditLogsError if the connection is lost, which may mean a successor, or its session lost the lock."""
        with self.translated_errors():
            if self.session is None:
                self._query("SELECT 1")
            elif not self._is_true(is_held_sql(self.pipeline_name, self.dataset_name, self.session.pid)):
                raise pooled()

    def after_load(self, client: PostgresClient) -> bool:
        """See Store. No failure of a step undoes the load."""
        turn = f"(hashtext('steps after a load into {self.dataset_name}')::bigint)"
        try:
            if not self._is_true(f"pg_try_advisory_lock{turn}"):
                return False  # another shard takes them
            try:
                return not [outcome for outcome in self.prepare(client) if outcome.is_passing]
            finally:
                self._query(f"SELECT pg_advisory_unlock{turn}")
        except AuditLogsError as error:
            log.warning("warehouse.not_prepared", step="all", reason=error)
            return False

    def prepare(self, client: PostgresClient, *, is_patient: bool = False) -> Iterator[Outcome]:
        """The same one by one, and if patient, however long they take."""
        owner = as_owner(client.config.credentials, self._owner)
        with self.translated_errors():
            (reader,) = self._query("SELECT current_user::text AS name")["name"].to_pylist()
            for outcome in prepare(owner, self.dataset_name, self._timescale, reader=reader, is_patient=is_patient):
                if outcome.reason is None:
                    log.info("warehouse.prepared", step=outcome.step)
                else:
                    log.warning("warehouse.not_prepared", step=outcome.step, reason=outcome.reason)
                yield outcome

    def load_events(self, events: pa.Table) -> None:
        """Writes events in one transaction, on the connection that has the lock; logs what PostgreSQL refuses."""
        for row in load_events(self._opened, self.dataset_name, events).to_pylist():
            log.warning("warehouse.quarantined", reason=row["reason"])
            self._refused[Stream(row["account_id"], row["api_version"])] += 1

    def load_quarantined(self, quarantined: pa.Table) -> None:
        """The same for events that could not be placed."""
        load_quarantined(self._opened, self.dataset_name, quarantined)

    def take_refused(self) -> Refused:
        """See Store."""
        refused, self._refused = self._refused, Counter()
        return refused

    def prune(self, client: PostgresClient) -> None:
        """Keeps the newest states of our pipeline, and the loads that are young or that a state belongs to."""
        for statement in statements_of("pruning.sql", schema=self.dataset_name, pipeline=self.pipeline_name):
            client.sql_client.execute_sql(statement)

    def close(self) -> None:
        """Gives the lock back."""
        if self.connection is not None:
            self.connection.close()
        self.connection = self.session = None
        self._refused.clear()

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """See Store; events that PostgreSQL refused, and that lie in the quarantine, count as held."""
        keys: set[EventKey] = set()
        with self.translated_errors():
            for table in (EVENTS_TABLE, QUARANTINE_TABLE):
                sql = (
                    f'SELECT event_id, "timestamp" FROM {self.dataset_name}.{table}'  # noqa: S608  # names are ours
                    f" WHERE {_OF_STREAM} AND timestamp >= $3 AND timestamp < $4"
                )
                keys.update(event_keys(self._query(sql, stream.account_id, stream.api_version, since, before)))
        return keys

    def held_digests(self, stream: Stream, digests: Sequence[str], received: Window) -> set[str]:  # noqa: ARG002  # a store's signature
        """See Store; by the table's key, whatever else is in it."""
        table = f"{self.dataset_name}.{QUARANTINE_TABLE}"
        sql = f"SELECT digest FROM {table} WHERE {_OF_STREAM} AND digest = ANY (string_to_array($3, ','))"  # noqa: S608  # names are ours
        with self.translated_errors():
            found = self._query(sql, stream.account_id, stream.api_version, ",".join(digests))
        return set(found["digest"].to_pylist())

    def _query(self, sql: str, *parameters: Any) -> pa.Table:
        with self._opened.cursor() as cursor:
            return table_of(cursor, sql, *parameters)

    def _is_true(self, claim: str) -> bool:
        return bool(self._query(f"SELECT {claim} AS is_true")["is_true"].to_pylist() == [True])

    @property
    def _opened(self) -> Connection:
        if self.connection is None:
            raise TemporaryError("the warehouse is not open")
        return self.connection


@contextmanager
def open_warehouse(stores: StoreSettings, *, takes_lock: bool) -> Iterator[tuple[Warehouse, WarehouseClient]]:
    """The warehouse with its tables, as the one writer if asked to. Raises as `Warehouse.open` and `verify_hooks`."""
    verify_hooks()
    warehouse = Warehouse.of(stores)
    client: WarehouseClient = client_of(warehouse)
    warehouse.open(client, takes_lock=takes_lock)
    try:
        yield warehouse, client
    finally:
        warehouse.close()
