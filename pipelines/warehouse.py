"""The warehouse: dlt's Postgres destination with a load job of ours, and what the loop asks of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow.parquet as pq
from adbc_driver_manager.dbapi import Connection
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.storages.load_package import ParsedLoadJobFileName
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.configuration import PostgresCredentials
from dlt.destinations.impl.postgres.postgres import PostgresClient

from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_TABLE
from sources.cloudflare_audit_logs.streams import Stream

from .known import EventKey, event_keys
from .logs import log
from .warehouse_load import load_events, load_quarantined

if TYPE_CHECKING:
    from collections.abc import Sequence

PIPELINE_NAME = "cloudflare_audit_warehouse"
_DDL = Path(__file__).with_suffix(".sql")


class WarehouseLoadJob(RunnableLoadJob):
    """A batch in, an idempotent write out: see `warehouse_load`."""

    _job_client: PostgresClient

    def run(self) -> None:
        """Writes the file's rows in one transaction."""
        table, schema = pq.read_table(self._file_path), self._job_client.sql_client.dataset_name
        with connect(self._job_client.config.credentials, autocommit=True) as connection:
            if self.load_table_name == QUARANTINE_TABLE:
                load_quarantined(connection, schema, table)
                return
            for reason in load_events(connection, schema, table):
                log.warning("warehouse.quarantined", reason=reason)


class WarehouseClient(PostgresClient):
    """dlt's Postgres client, which keeps its own tables as it always does; only the events take our way."""

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

    def should_load_data_to_staging_dataset(self, table_name: str) -> bool:  # noqa: ARG002  # dlt's signature
        """Never: two processes that share dlt's staging table lost 250 of 2,500 events."""
        return False

    def _create_merge_followup_jobs(self, table_chain: "Sequence[PreparedTableSchema]") -> list[FollowupJobRequest]:  # noqa: ARG002
        return []


class AuditWarehouse(postgres):
    """The dlt destination. Configured as dlt's own, under `destination.postgres`."""

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        capabilities = super()._raw_capabilities()
        capabilities.loader_file_format_selector = None  # type: ignore[assignment]  # its default, too
        return capabilities

    @property
    def client_class(self) -> type[PostgresClient]:
        """The client above."""
        return WarehouseClient


class Warehouse:
    """What the loop asks of PostgreSQL besides loading. Errors of the driver mean that it is down."""

    name = "warehouse"
    pipeline_name = PIPELINE_NAME

    def __init__(self, schema: str, *, ensure_server: Callable[[], None] = lambda: None) -> None:
        self.dataset_name = schema
        self._ensure_server = ensure_server
        self._lock: Connection | None = None
        """The connection that holds the writer's lock, and asks what has to be asked."""

    def destination(self) -> AuditWarehouse:
        """What a dlt pipeline loads into."""
        return AuditWarehouse(destination_name="postgres")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Makes one clear message of whatever the driver raises."""
        try:
            yield
        except adbc_driver_manager.Error as error:
            lines = str(error).partition("[libpq]")[2].strip() or str(error)
            hint = "check PG_HOST, PG_USER, PG_PASSWORD and PG_DATABASE"
            raise TemporaryError("the warehouse is not available", detail=" ".join(lines.split()), hint=hint) from error

    def open(self, client: PostgresClient) -> None:
        """Takes the writer's lock and makes the tables. Safe to repeat.

        Raises:
            TemporaryError: another process loads this schema, or the server is down.
            AuditLogsError: there is a table `audit_logs` with another key.
        """
        self.close()
        self._ensure_server()
        credentials = client.config.credentials
        with self.translated_errors():
            self._lock = connect(credentials, autocommit=True)
            self._take_lock()
            with connect(credentials) as connection, connection.cursor() as cursor:
                for statement in _ddl(self.dataset_name):
                    cursor.execute(statement)
                self._check_key(cursor)
                connection.commit()

    def verify_lock(self) -> None:
        """The lock lives as long as its connection: a lost connection may mean a successor.

        Raises:
            TemporaryError: the connection is gone.
        """
        with self.translated_errors():
            self._query("SELECT 1")

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """The keys of the stream's events in `[since, before)`, those that are quarantined for PostgreSQL included."""
        where = "account_id = $1 AND api_version = $2 AND timestamp >= $3 AND timestamp < $4"
        keys: set[EventKey] = set()
        with self.translated_errors():
            for table in (EVENTS_TABLE, QUARANTINE_TABLE):
                sql = f'SELECT event_id, "timestamp" FROM {self.dataset_name}.{table} WHERE {where}'  # noqa: S608  # names are ours
                keys.update(event_keys(self._query(sql, stream.account_id, stream.api_version, since, before)))
        return keys

    def quarantined_digests(self, stream: Stream) -> set[str]:
        """The digests of all that is quarantined of the stream."""
        where = "account_id = $1 AND api_version = $2"
        sql = f"SELECT digest FROM {self.dataset_name}.{QUARANTINE_TABLE} WHERE {where}"  # noqa: S608  # names are ours
        with self.translated_errors():
            return set(self._query(sql, stream.account_id, stream.api_version)["digest"].to_pylist())

    def _query(self, sql: str, *parameters: Any) -> Any:
        if self._lock is None:
            raise TemporaryError("the warehouse is not open")
        with self._lock.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetch_arrow_table()

    def _take_lock(self) -> None:
        sql = f"SELECT pg_try_advisory_lock(hashtext('{PIPELINE_NAME}'), hashtext('{self.dataset_name}')) AS is_held"
        if self._query(sql)["is_held"].to_pylist() != [True]:
            raise TemporaryError(
                "another process loads this warehouse",
                hint="one loop per warehouse: stop the other one, or find it by its advisory lock in pg_locks",
            )

    def _check_key(self, cursor: Any) -> None:
        cursor.execute(
            "SELECT a.attname AS name FROM pg_index i"  # noqa: S608  # names are ours
            " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
            f" WHERE i.indisprimary AND i.indrelid = '{self.dataset_name}.{EVENTS_TABLE}'::regclass ORDER BY k.n",
        )
        key = tuple(cursor.fetch_arrow_table()["name"].to_pylist())
        if key != PRIMARY_KEY:
            raise AuditLogsError(
                f"the table {self.dataset_name}.{EVENTS_TABLE} has the key {key}, not {PRIMARY_KEY}",
                hint="it is not ours: set PG_SCHEMA to another schema, or rename that table",
            )


def connect(credentials: PostgresCredentials, *, autocommit: bool = False) -> Connection:
    """A connection to the warehouse, as dlt would reach it."""
    connection: Connection = adbc.connect(credentials.to_native_representation(), autocommit=autocommit)
    return connection


def _ddl(schema: str) -> list[str]:
    lines = [line for line in _DDL.read_text().splitlines() if not line.lstrip().startswith("--")]
    return [statement.replace("{schema}", schema) for statement in "\n".join(lines).split(";") if statement.strip()]
