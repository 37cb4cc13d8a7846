"""A table of the warehouse, filled with a history, to be measured."""

import re
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pyarrow as pa
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, TimescaleSettings
from pipelines.warehouse.connection import connect, transaction, value_of
from pipelines.warehouse.setup import set_up
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.upkeep import prepare
from pipelines.warehouse.write import load_events

from .events import insert_events

DOCUMENT = PROJECT_ROOT / "docs" / "warehouse.md"
EVENTS_A_DAY = 10_000_000 / 90
KINDS = {
    "plain": TimescaleSettings(chunk_days=0),
    "hypertable": TimescaleSettings(compress_after_days=0),
    "compressed": TimescaleSettings(compress_after_days=36_500),  # by us, below
}


@dataclass(frozen=True)
class Table:
    """A table of events in a schema of its own."""

    server: PostgresSettings
    kind: str
    rows: int
    schema: str

    def __str__(self) -> str:
        return f"{self.rows:,} {self.kind}"

    @property
    def credentials(self) -> PostgresCredentials:
        """The server's credentials, as dlt has them."""
        server = self.server
        return PostgresCredentials(
            {
                "host": server.host,
                "port": server.port,
                "database": server.database,
                "username": server.user,
                "password": server.password or "none",
                "query": {"sslmode": server.sslmode},
            }
        )

    def value(self, sql: str) -> float:
        """Returns the one value that a query yields."""
        with transaction(self.credentials) as cursor:
            return float(value_of(cursor, sql.replace("{schema}", self.schema)))

    def execute(self, *statements: str) -> None:
        """Runs each statement by itself (VACUUM cannot run in a transaction)."""
        with connect(self.credentials, autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement.replace("{schema}", self.schema))

    def load(self, batch: pa.Table) -> float:
        """Merges a batch as the main job does; returns the seconds."""
        with connect(self.credentials, autocommit=True) as connection:
            begun = time.perf_counter()
            load_events(connection, self.schema, batch)
            return time.perf_counter() - begun

    def prepare(self) -> None:
        """Makes the empty table as the main job does."""
        self.execute("DROP SCHEMA IF EXISTS {schema} CASCADE")
        with connect(self.credentials) as connection:
            set_up(connection, self.credentials, None, self.schema)
        self.settle()

    def settle(self) -> None:
        """Runs the steps after the load."""
        for outcome in prepare(
            self.credentials, self.schema, KINDS[self.kind], reader=self.server.user, is_patient=True
        ):
            if outcome.reason:
                sys.exit(f"{self}: {outcome.step}: {outcome.reason}")

    def grown(self, rows: int, before: datetime) -> "Table":
        """Returns the table grown to `rows`, the new ones older than the others. Makes its indexes anew: faster."""
        newest = before - timedelta(days=self.rows / EVENTS_A_DAY)
        span = timedelta(days=(rows - self.rows) / EVENTS_A_DAY)
        print(f"  {self.kind}: {rows:,} rows …", file=sys.stderr)
        self.execute(*(f"DROP INDEX IF EXISTS {self.schema}.{name}" for name in index_statements(self.schema)))
        self.execute(insert_events(self.schema, rows - self.rows, newest, span))
        self.settle()
        self.execute("VACUUM (ANALYZE) {schema}.audit_logs")
        return replace(self, rows=rows)

    def compressed(self) -> "Table":
        """Returns the table with everything compressed except the chunks of the last week."""
        table = replace(self, kind="compressed")
        table.settle()
        chunks = "SELECT count(compress_chunk(c)) FROM show_chunks('{schema}.audit_logs', older_than => now()) AS c"
        table.value(chunks)
        table.execute("VACUUM (ANALYZE) {schema}.audit_logs")
        return table


def index_statements(schema: str) -> dict[str, str]:
    """Returns the indexes of audit_logs by name: ours, and the optional one of the docs on the whole payload."""
    after_load = sections_of("after_load.sql", schema=schema)
    ours = [statements[0] for section, statements in after_load.items() if section.startswith("index ")]
    option = re.findall(r"CREATE INDEX \w+ ON audit_logs [^;]+", DOCUMENT.read_text())
    statements = [*ours, *(text.replace(" ON audit_logs", f" ON {schema}.audit_logs") for text in option)]
    return {statement.partition(" ON ")[0].split()[-1]: statement for statement in statements}
