"""The warehouse: dlt's Postgres destination with a load job of ours, and what the loop asks of it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from adbc_driver_manager.dbapi import Connection
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.common.storages.load_package import ParsedLoadJobFileName
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient

from pipelines.host.logs import log
from pipelines.host.transient import can_pass
from pipelines.load.dlt_settings import OwnDestination, verify_hooks
from pipelines.load.held_keys import EventKey, event_keys
from pipelines.load.store import Refused, client_of
from pipelines.settings.settings import OwnerSettings, StoreSettings, TimescaleSettings
from pipelines.settings.shards import WHOLE, Shard
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.files import read_groups
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, EVENTS_TABLE, QUARANTINE_SCHEMA, QUARANTINE_TABLE
from sources.cloudflare_audit_logs.streams import Stream, Window

from .connection import (
    INSUFFICIENT_PRIVILEGE,
    NOT_AS_ASKED_FOR,
    DriverError,
    as_owner,
    connect,
    message_of,
    sqlstate_of,
    told_cause_of,
)
from .dlt_connection import WarehouseConfiguration, WarehouseSqlClient
from .lock import holders_sql, is_held_sql, lock_keys, pooled, refuse_pooling
from .setup import one_at_a_time, set_up
from .statements import statements_of
from .states import PIPELINE_NAME, stored_states
from .upkeep import Outcome, prepare
from .write import load_events, load_quarantined

if TYPE_CHECKING:
    from collections.abc import Sequence

# As a number: as text, it would depend on the DateStyle of each session.
_STARTED = "extract(epoch FROM backend_start)::text"
_IS_ALIVE = f"SELECT 1 FROM pg_stat_activity WHERE pid = %s AND {_STARTED} = %s"  # noqa: S608  # names are ours
_NAME = "SELECT set_config('application_name', 'shard {shard} ' || current_setting('application_name'), false)"
_KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""A host that vanished must not hold the lock for TCP's two hours."""


def refuse_others(programs: list[str]) -> None:
    """What is right for whoever wants to be the only one.

    Raises:
        TemporaryError: always.
    """
    hint = "stop all loops of this warehouse first"
    raise TemporaryError("loops of other shards load this warehouse", detail=", ".join(programs), hint=hint)


class Session(NamedTuple):
    """A session of the server, which lives as long as its connection."""

    pid: int
    started: str


class WarehouseLoadJob(RunnableLoadJob):
    """A batch in, an idempotent write out: see `warehouse_load`."""

    _job_client: "WarehouseClient"

    def run(self) -> None:
        """Writes the rows of its file, each group of them in one transaction; repeated, it finds its own work done."""
        store, is_quarantine = self._job_client.store, self.load_table_name == QUARANTINE_TABLE
        load = store.load_quarantined if is_quarantine else store.load_events
        for group in read_groups(self._file_path, QUARANTINE_SCHEMA if is_quarantine else EVENT_SCHEMA):
            load(group)


class WarehouseClient(PostgresClient):
    """dlt's Postgres client, which keeps its own tables as it always does; only the events take our way."""

    store: "Warehouse"
    """Its connection has the writer's lock: a load on it cannot outlive the lock. A new one costs 40 ms."""
    writer: Session | None = None
    """The session that held the writer's lock when the pipeline was opened."""

    def __init__(self, schema: Schema, config: Any, capabilities: DestinationCapabilitiesContext) -> None:
        super().__init__(schema, config, capabilities)
        dlts = self.sql_client
        names = dlts.dataset_name, dlts.staging_dataset_name
        self.sql_client = WarehouseSqlClient(*names, config.credentials, capabilities)

    def create_load_job(
        self,
        table: PreparedTableSchema,
        file_path: str,
        load_id: str,
        restore: bool = False,  # noqa: FBT001, FBT002  # dlt's signature
    ) -> LoadJob:
        """Our job for our tables, dlt's for its own."""
        is_ours = table["name"] in {EVENTS_TABLE, QUARANTINE_TABLE}
        if is_ours and ParsedLoadJobFileName.parse(file_path).file_format == "parquet":
            return WarehouseLoadJob(file_path)
        return super().create_load_job(table, file_path, load_id, restore)

    def complete_load(self, load_id: str) -> None:
        """Makes the load's state count, if the writer's lock is still held.

        A process that slept through the loss of its lock may add events, each once, but not move the cursor.
        """
        if self.writer is not None and not self.sql_client.execute_sql(_IS_ALIVE, *self.writer):
            raise TemporaryError("the warehouse's lock was lost during a load", hint="another process may have it now")
        super().complete_load(load_id)

    def _execute_schema_update_sql(self, *arguments: Any, **named: Any) -> Any:
        """Dlt makes its own tables here, in a transaction, as if no one else did."""
        self.sql_client.execute_sql(one_at_a_time(self.sql_client.dataset_name))
        return super()._execute_schema_update_sql(*arguments, **named)

    def should_load_data_to_staging_dataset(self, table_name: str) -> bool:  # noqa: ARG002  # dlt's signature
        """Never: two processes that share dlt's staging table lost 250 of 2,500 events."""
        return False

    def _create_merge_followup_jobs(self, table_chain: "Sequence[PreparedTableSchema]") -> list[FollowupJobRequest]:  # noqa: ARG002
        return []


class AuditWarehouse(OwnDestination, postgres):
    """The dlt destination. Configured as dlt's own, under `destination.postgres`."""

    __module__ = "pipelines.warehouse"  # where stored dlt states look for it

    spec = WarehouseConfiguration  # type: ignore[assignment]  # dlt's names its own alone
    store: "Warehouse | None" = None

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        """The client above, with the store, which knows who holds the writer's lock."""
        client: Any = super().client(schema, initial_config)
        if self.store is not None:
            client.store, client.writer = self.store, self.store.session
        return client

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        capabilities = super()._raw_capabilities()
        capabilities.loader_file_format_selector = None  # type: ignore[assignment]  # its default, too
        capabilities.loader_parallelism_strategy = "sequential"  # the jobs of a load share a connection
        return capabilities

    @property
    def client_class(self) -> type[PostgresClient]:
        """The client above."""
        return WarehouseClient


class Warehouse:
    """What the loop asks of PostgreSQL besides loading. Errors of the driver mean that it is down."""

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
        """Tells `on_others`, when it has taken the lock, of loops that divide the accounts in another way."""
        self.dataset_name = schema
        self.pipeline_name = PIPELINE_NAME + shard.suffix
        self._shard, self._on_others = shard, on_others
        self._owner, self._timescale = owner, timescale
        self._ensure_server, self._clock = ensure_server, clock
        settings = "PG_HOST, PG_PORT, PG_DATABASE, PG_USER, PG_PASSWORD and PG_SSLMODE"
        self._hint = f"check {settings}{', PG_OWNER_USER and PG_OWNER_PASSWORD' if owner else ''}"
        if embedded_in is not None:
            self._hint = (
                f"it is the embedded PostgreSQL: see server.log in {embedded_in}; the next poll starts it again"
            )
        self.connection: Connection | None = None
        """The connection that asks what has to be asked, and holds the writer's lock."""
        self.session: Session | None = None
        """That of the connection, if it holds the lock."""
        self._refused: Counter[Stream] = Counter()

    @classmethod
    def of(cls, stores: StoreSettings, **own: Any) -> "Warehouse":
        """That of the settings."""
        embedded_in = None if stores.postgres else stores.postgres_dir
        return cls(
            stores.postgres_schema,
            timescale=stores.timescale,
            owner=stores.postgres_owner,
            embedded_in=embedded_in,
            **own,
        )

    def destination(self) -> AuditWarehouse:
        """What a dlt pipeline loads into."""
        destination = AuditWarehouse(destination_name="postgres")
        destination.store = self
        return destination

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Makes one clear message of whatever a driver raises, dlt's included: PostgreSQL's words, no statement."""
        try:
            yield
        except AuditLogsError:
            raise
        except Exception as error:
            cause = told_cause_of(error)
            if cause is None:
                raise
            raise (cause if isinstance(cause, AuditLogsError) else self._translated(cause)) from error

    def _translated(self, error: DriverError) -> AuditLogsError:
        detail, sqlstate = message_of(error), sqlstate_of(error)
        if sqlstate == INSUFFICIENT_PRIVILEGE:
            hint = "GRANT it, or name the role that owns the tables as PG_OWNER_USER"
            return AuditLogsError("a right is missing in the warehouse", detail=detail, hint=hint)
        if sqlstate.startswith(NOT_AS_ASKED_FOR):
            hint = "a table is gone, or not as the loop makes it: pipelines/doctor.py says which"
            return AuditLogsError("the warehouse is not as it should be", detail=detail, hint=hint)
        kind = TemporaryError if can_pass(error) else AuditLogsError
        return kind("the warehouse is not available", detail=detail, hint=self._hint)

    @property
    def oldest_kept(self) -> datetime | None:
        """Before it, the retention has deleted: loading it again would bring it back."""
        days = self._timescale.retention_days
        return self._clock() - timedelta(days=days) if days else None

    def open(self, client: PostgresClient, *, takes_lock: bool) -> None:
        """Makes the tables, and takes the writer's lock if told to. Safe to repeat.

        Raises:
            TemporaryError: another process loads this schema, or the server is down.
            AuditLogsError: the tables are not ours, or not there and not ours to make.
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

    def states(self, client: PostgresClient) -> list[Any]:  # noqa: ARG002  # a store's signature
        """See Store."""
        with self.translated_errors(), self._opened.cursor() as cursor:
            return stored_states(cursor, self.dataset_name)

    def verify_lock(self) -> None:
        """The lock lives as long as its connection: a lost connection may mean a successor.

        Raises:
            TemporaryError: the connection is gone.
            AuditLogsError: the connection is another session now, or that does not hold the lock.
        """
        with self.translated_errors():
            if self.session is None:
                self._query("SELECT 1")
            elif not self._try(is_held_sql(self.pipeline_name, self.dataset_name, self.session.pid)):
                raise pooled()

    def after_load(self, client: PostgresClient) -> bool:
        """Takes the steps that come after a load, where they are due; False if some may succeed if tried again soon.

        Whatever happens to them, the load has been made.
        """
        turn = f"(hashtext('steps after a load into {self.dataset_name}')::bigint)"
        try:
            if not self._try(f"pg_try_advisory_lock{turn}"):
                return False  # another shard takes them
            try:
                return not [outcome for outcome in self.prepare(client) if outcome.is_passing]
            finally:
                self._try(f"pg_advisory_unlock{turn}")
        except AuditLogsError as error:
            log.warning("warehouse.not_prepared", step="all", reason=error)
            return False

    def prepare(self, client: PostgresClient, *, is_patient: bool = False) -> Iterator[Outcome]:
        """The same one by one, and if told to, however long they take."""
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
        """Writes events in one transaction, on the connection that has the lock; says what PostgreSQL refuses."""
        refused = load_events(self._opened, self.dataset_name, events).to_pylist()
        for row in refused:
            log.warning("warehouse.quarantined", reason=row["reason"])
        self._refused.update(Stream(row["account_id"], row["api_version"]) for row in refused)

    def load_quarantined(self, quarantined: pa.Table) -> None:
        """The same for what cannot be placed."""
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
        """The keys of the stream's events in `[since, before)`, those that are quarantined for PostgreSQL included."""
        where = "account_id = $1 AND api_version = $2 AND timestamp >= $3 AND timestamp < $4"
        keys: set[EventKey] = set()
        with self.translated_errors():
            for table in (EVENTS_TABLE, QUARANTINE_TABLE):
                sql = f'SELECT event_id, "timestamp" FROM {self.dataset_name}.{table} WHERE {where}'  # noqa: S608  # names are ours
                keys.update(event_keys(self._query(sql, stream.account_id, stream.api_version, since, before)))
        return keys

    def held_digests(self, stream: Stream, digests: "Sequence[str]", received: Window) -> set[str]:  # noqa: ARG002  # a store's signature
        """See Store; by the table's key, whatever else is in it."""
        where = "account_id = $1 AND api_version = $2 AND digest = ANY (string_to_array($3, ','))"
        sql = f"SELECT digest FROM {self.dataset_name}.{QUARANTINE_TABLE} WHERE {where}"  # noqa: S608  # names are ours
        with self.translated_errors():
            found = self._query(sql, stream.account_id, stream.api_version, ",".join(digests))
        return set(found["digest"].to_pylist())

    def _query(self, sql: str, *parameters: Any) -> Any:
        with self._opened.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetch_arrow_table()

    @property
    def _opened(self) -> Connection:
        if self.connection is None:
            raise TemporaryError("the warehouse is not open")
        return self.connection

    def _take_lock(self) -> None:
        for name, seconds in _KEEPALIVES.items():
            self._query(f"SELECT set_config('{name}', '{seconds}', false)")
        if self._shard != WHOLE:
            self._query(_NAME.format(shard=self._shard))
        if not self._try(f"pg_try_advisory_lock({lock_keys(self.pipeline_name, self.dataset_name)})"):
            holders = self._query(holders_sql(self.dataset_name, among={self.pipeline_name}))["holder"].to_pylist()
            raise TemporaryError(
                "another process loads this warehouse",
                detail=f"held by {', '.join(holders)}",
                hint="one loop per warehouse (or shard of its accounts): stop the other one",
            )
        self.session = Session(**self._query(_SESSION).to_pylist()[0])
        own = {PIPELINE_NAME + shard.suffix for shard in self._shard.all}
        others = self._query(holders_sql(self.dataset_name, but=own))["program"].to_pylist()
        if others:
            self._on_others(others)

    def _try(self, function: str) -> bool:
        return bool(self._query(f"SELECT {function} AS is_done")["is_done"].to_pylist() == [True])


@contextmanager
def open_warehouse(stores: StoreSettings, *, takes_lock: bool) -> Iterator[tuple[Warehouse, WarehouseClient]]:
    """The warehouse with its tables, as the one writer if told to.

    Raises:
        AuditLogsError: it is down, loaded by another process, or not ours; or dlt is another one.
    """
    verify_hooks()
    warehouse = Warehouse.of(stores)
    client: WarehouseClient = client_of(warehouse)
    warehouse.open(client, takes_lock=takes_lock)
    try:
        yield warehouse, client
    finally:
        warehouse.close()


_SESSION = f"SELECT pid, {_STARTED} AS started FROM pg_stat_activity WHERE pid = pg_backend_pid()"  # noqa: S608  # names are ours
