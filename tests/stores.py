"""The contents of the two stores, as a reader outside the project sees them."""

import io
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.servers.seaweed import s3_client
from pipelines.settings.settings import PostgresSettings

_connections: dict[tuple[int, str], adbc.Connection] = {}
"""By thread and server: each reads the whole catalog when it is opened, 30 ms of an empty one."""


def drop_schemas(postgres: PostgresSettings, prefix: str) -> None:
    """Each table would cost every later connection more than a millisecond. What is locked for good stays."""
    stores = Stores(postgres, prefix, Path())
    schemas = stores.query(
        "SELECT quote_ident(nspname) AS name FROM pg_namespace WHERE starts_with(nspname, '{schema}')"
    )
    stores.query("SET lock_timeout = '10s'")
    with suppress(adbc.Error):
        for schema in schemas:
            stores.query(f"DROP SCHEMA {schema['name']} CASCADE")


def close_connections() -> None:
    """Ends what was kept, before the servers end."""
    while _connections:
        with suppress(adbc.Error):
            _connections.popitem()[1].close()


def _query(uri: str, sql: str) -> list[dict[str, Any]]:
    key = (threading.get_ident(), uri)
    is_new = key not in _connections
    if is_new:
        _connections[key] = adbc.connect(uri, autocommit=True)
    connection = _connections[key]
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().to_pylist() if cursor.description else []
    except adbc.Error:
        del _connections[key]
        with suppress(adbc.Error):
            connection.close()
        if is_new:
            raise
    return _query(uri, sql)  # its server may have been started again


@dataclass
class Stores:
    """The contents of the two destinations."""

    postgres: PostgresSettings
    schema: str
    lake: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """With `S3_BUCKET` in it, the lake is that bucket."""

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the warehouse; `{schema}` in the SQL is its schema."""
        server = self.postgres
        uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"
        return _query(uri, sql.replace("{schema}", self.schema))

    def plan(self, sql: str) -> str:
        """PostgreSQL's plan of a statement, which is run and changes nothing in the end."""
        server = self.postgres
        connection = psycopg2.connect(
            host=server.host, port=server.port, dbname=server.database, user=server.user, password=server.password
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {sql.replace('{schema}', self.schema)}")
            return "\n".join(line for (line,) in cursor.fetchall())

    def warehouse(self) -> list[dict[str, Any]]:
        """The events of the warehouse by key."""
        return self.query(
            "SELECT *, metadata::text AS metadata, raw_event::text AS raw_event FROM {schema}.audit_logs"
            ' ORDER BY account_id, "timestamp", event_id, api_version'
        )

    def lake_table(self, table: str = "audit_logs") -> pa.Table:
        """A table of the lake."""
        bodies = self.objects(f"{table}/", ".parquet")
        tables = [pq.ParquetFile(io.BytesIO(body)).read() for body in bodies]
        return pa.concat_tables(tables) if tables else pa.table({"event_id": []})

    def lake_events(self) -> list[dict[str, Any]]:
        """The events of the lake by key."""
        return sorted(
            self.lake_table().to_pylist(), key=lambda row: (row["account_id"], row["timestamp"], row["event_id"])
        )

    def objects(self, prefix: str, suffix: str = "") -> list[bytes]:
        """The bodies of the objects under a path of the lake."""
        if "S3_BUCKET" not in self.environment:
            files = sorted((self.lake / "cloudflare" / prefix).rglob(f"*{suffix}"))
            return [file.read_bytes() for file in files if file.is_file()]
        client, bucket = s3_client(self.environment["S3_ENDPOINT"]), self.environment["S3_BUCKET"]
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{self.environment['S3_PREFIX']}/cloudflare/{prefix}"
        )
        keys = sorted(
            item["Key"] for page in pages for item in page.get("Contents", []) if item["Key"].endswith(suffix)
        )
        return [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]

    def ids(self) -> tuple[list[str], list[str]]:
        """The event ids of warehouse and lake, in order, doubles included."""
        return self.warehouse_ids(), self.lake_ids()

    def warehouse_ids(self) -> list[str]:
        """The event ids of the warehouse, in order, doubles included; none before its table is there."""
        if not self.query("SELECT to_regclass('{schema}.audit_logs') AS name")[0]["name"]:
            return []
        return sorted(row["event_id"] for row in self.query("SELECT event_id FROM {schema}.audit_logs"))

    def lake_ids(self) -> list[str]:
        """As above, of the lake."""
        return sorted(self.lake_table()["event_id"].to_pylist())
