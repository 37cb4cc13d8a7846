"""dlt's Postgres destination with a load job of ours: dlt keeps its own tables, only the events take our way."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dlt.common.configuration import configspec
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.common.storages.load_package import ParsedLoadJobFileName
from dlt.common.typing import TSecretStrValue
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.configuration import PostgresClientConfiguration, PostgresCredentials
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient

from pipelines.load.dlt_settings import OwnDestination
from sources.cloudflare_audit_logs.errors import TemporaryError
from sources.cloudflare_audit_logs.files import read_groups
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, EVENTS_TABLE, QUARANTINE_SCHEMA, QUARANTINE_TABLE

from .connection import SESSION_SQL, connect_psycopg2
from .lock import one_at_a_time

if TYPE_CHECKING:
    from .destination import Warehouse

# As a number: as text, it would depend on the DateStyle of each session.
STARTED = "extract(epoch FROM backend_start)::text"
_IS_ALIVE = f"SELECT 1 FROM pg_stat_activity WHERE pid = %s AND {STARTED} = %s"  # noqa: S608  # names are ours


@configspec(init=False)
class WarehouseCredentials(PostgresCredentials):
    """dlt's credentials, whatever characters the password has. Without one, libpq looks where psql does (`.pgpass`)."""

    password: TSecretStrValue = ""

    def resolve(self) -> Self:
        """As dlt's, but keeps spaces around the password, which are part of it."""
        password = self.password
        super().resolve()
        self.password = password
        return self


@configspec
class WarehouseConfiguration(PostgresClientConfiguration):
    """dlt's configuration, with the credentials above."""

    credentials: WarehouseCredentials = dataclasses.field(default=None)  # type: ignore[assignment]  # as dlt's has it


class WarehouseSqlClient(Psycopg2SqlClient):
    """dlt's connection, as ours are made: without `options=-c search_path=…`, which PgBouncer refuses.

    Our statements name the schema.
    """

    def open_connection(self) -> Any:
        """See dlt's."""
        self._conn = connect_psycopg2(self.credentials)
        self._reset_connection()
        return self._conn

    def _reset_connection(self) -> None:
        super()._reset_connection()  # which does RESET ALL
        with self._conn.cursor() as cursor:
            cursor.execute(SESSION_SQL)
            # dlt's own dashboard names no schema in its queries.
            path = f"{self.fully_qualified_dataset_name()},public"
            cursor.execute("SELECT pg_catalog.set_config('search_path', %s, false)", (path,))


class Session(NamedTuple):
    """A session of the server, which lives as long as its connection."""

    pid: int
    started: str


class WarehouseLoadJob(RunnableLoadJob):
    """Writes a file of a load; repeated, it finds its own work done."""

    _job_client: "WarehouseClient"

    def run(self) -> None:
        """Writes each group of the file's rows in one transaction."""
        store, is_quarantine = self._job_client.store, self.load_table_name == QUARANTINE_TABLE
        load = store.load_quarantined if is_quarantine else store.load_events
        for group in read_groups(self._file_path, QUARANTINE_SCHEMA if is_quarantine else EVENT_SCHEMA):
            load(group)


class WarehouseClient(PostgresClient):
    """dlt's Postgres client with our connection and our load job."""

    store: "Warehouse"
    """Its connection has the writer's lock: a load on it cannot outlive the lock. A new one costs 40 ms."""
    writer: Session | None = None
    """The session that held the writer's lock when the pipeline was opened."""

    def __init__(self, schema: Schema, config: Any, capabilities: DestinationCapabilitiesContext) -> None:
        super().__init__(schema, config, capabilities)
        names = self.sql_client.dataset_name, self.sql_client.staging_dataset_name
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
        """Makes dlt's own tables, one process at a time: dlt itself assumes that it is alone."""
        self.sql_client.execute_sql(one_at_a_time(self.sql_client.dataset_name))
        return super()._execute_schema_update_sql(*arguments, **named)

    def should_load_data_to_staging_dataset(self, table_name: str) -> bool:  # noqa: ARG002  # dlt's signature
        """Never: two processes that share dlt's staging table lost 250 of 2,500 events."""
        return False

    def _create_merge_followup_jobs(self, table_chain: Sequence[PreparedTableSchema]) -> list[FollowupJobRequest]:  # noqa: ARG002
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
