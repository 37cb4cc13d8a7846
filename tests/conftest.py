"""Real servers for the tests: a PostgreSQL, an S3 store and a Cloudflare, on loopback, gone when the tests are."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import boto3
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dotenv import dotenv_values

from pipelines.cli.main_job import run
from pipelines.fetch.reading import DEFAULT_LIMITS, StepLimits
from pipelines.loop.report import Report
from pipelines.settings.reader import OWN_PREFIXES
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_settings
from pipelines.warehouse.embedded import embedded_postgres
from simulator.api import Api
from simulator.server import serving
from simulator.world import World

from .factory import ACCOUNT, OTHER_ACCOUNT

TOKEN = "simulated-token"
S3_KEYS = {"S3_ACCESS_KEY": "test-access-key", "S3_SECRET_KEY": "test-secret-key"}
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`."""
    parser.addoption("--long", action="store_true", help="run the long tests, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long ones out, and says how many."""
    left_out = [] if config.getoption("--long") else [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for servers that may not run as root: readable to all, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="audit-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[PostgresSettings]:
    """An ordinary PostgreSQL, reached by address and password."""
    with embedded_postgres(server_dir / "postgres", "fsync=off") as server:
        yield server


@dataclass
class Bucket:
    """A bucket of a real S3 server."""

    endpoint: str
    name: str
    client: Any

    def settings(self, prefix: str) -> dict[str, str]:
        """The environment that makes it the lake."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_BUCKET": self.name,
            "S3_PREFIX": prefix,
            "S3_REGION": "us-east-1",
            **S3_KEYS,
        }


@pytest.fixture(scope="session")
def bucket(server_dir: Path) -> Iterator[Bucket]:
    """A bucket on SeaweedFS."""
    with seaweed(server_dir) as bucket:
        yield bucket


@contextmanager
def seaweed(server_dir: Path) -> Iterator[Bucket]:
    """A bucket on SeaweedFS as long as the block runs: real authentication, enforced conditions."""
    for attempt in range(3):  # another test's server may take one of the ports before it does
        process, endpoint = _start_weed(server_dir / f"weed{attempt}")
        client = s3_client(endpoint)
        if _has_bucket(client, "lake", process):
            break
        process.kill()
        process.wait(30)
    else:
        pytest.fail("the S3 server of the tests did not start")
    try:
        yield Bucket(endpoint, "lake", client)
    finally:
        process.terminate()
        process.wait(30)


def _start_weed(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    ports = _free_ports(8)
    names = [
        "s3",
        "master",
        "master.port.grpc",
        "volume",
        "volume.port.grpc",
        "filer",
        "filer.port.grpc",
        "s3.port.grpc",
    ]
    flags = [f"-{name if '.' in name else f'{name}.port'}={port}" for name, port in zip(names, ports, strict=True)]
    folder.mkdir()
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "install the development packages: make setup-dev"
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-bucket=lake"]
    keys = {"AWS_ACCESS_KEY_ID": S3_KEYS["S3_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": S3_KEYS["S3_SECRET_KEY"]}
    with (folder / "weed.log").open("w") as output:
        process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=output, stderr=output, cwd=folder)
    return process, f"http://127.0.0.1:{ports[0]}"


@pytest.fixture
def api() -> Api:
    """A Cloudflare of two accounts without events."""
    return Api(World([ACCOUNT, OTHER_ACCOUNT]), token=TOKEN, clock=lambda: datetime.now(UTC))


@pytest.fixture
def environment(
    api: Api, postgres: PostgresSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Settings for a run against the simulator, the PostgreSQL of the tests and a folder lake, and no others."""
    for name in os.environ:
        if name.startswith((*OWN_PREFIXES, "DESTINATION__")) or name == "INITIAL_CHECKPOINT":
            monkeypatch.delenv(name)
    for name in dotenv_values(PROJECT_ROOT / ".env"):
        monkeypatch.setenv(name, "")  # which counts as not set, whatever the file says
    with serving(api) as server:
        yield {
            "CLOUDFLARE_API_URL": server.url,
            "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
            "CLOUDFLARE_API_VERSION": "v1",
            "ACCOUNTS_FILE": os.devnull,
            "CLOUDFLARE_BACKOFF_SECONDS": "0",
            "DATA_DIR": str(tmp_path / "data"),
            "PG_HOST": postgres.host,
            "PG_PORT": str(postgres.port),
            "PG_PASSWORD": postgres.password,
            "RECONCILE_AFTER_HOURS": "0",
            "PG_SCHEMA": f"test_{os.getpid()}_{next(_numbers)}",
        }


@pytest.fixture
def both_versions(environment: dict[str, str]) -> None:
    """The default, v1 and v2, for a test that does not keep to one version."""
    del environment["CLOUDFLARE_API_VERSION"]


@dataclass
class Stores:
    """What the two destinations hold."""

    postgres: PostgresSettings
    schema: str
    lake: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """With `S3_BUCKET` in it, the lake is that bucket."""

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the warehouse; `{schema}` in the SQL is its schema."""
        server = self.postgres
        uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"
        with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(sql.replace("{schema}", self.schema))
            return cursor.fetch_arrow_table().to_pylist() if cursor.description else []

    def plan(self, sql: str) -> str:
        """What PostgreSQL did to run a statement, which changes nothing in the end."""
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


@pytest.fixture
def stores(environment: Mapping[str, str], postgres: PostgresSettings) -> Stores:
    """The destinations of `environment`."""
    return Stores(postgres, environment["PG_SCHEMA"], Path(environment["DATA_DIR"]) / "lake", environment)


@pytest.fixture
def poll(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """`run.py --once` in this process, on `environment` and what a test adds to it, with a clock that may be wrong."""

    def poll(*, limits: StepLimits = DEFAULT_LIMITS, ahead: timedelta = timedelta(), **changes: str) -> Report:
        for name, value in {**environment, **changes}.items():
            monkeypatch.setenv(name, value)
        # dlt reads its configuration once a process; here, once a run.
        Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
        return run(
            read_settings(read_environment(), now=datetime.now(UTC)),
            once=True,
            stop=threading.Event(),
            limits=limits,
            clock=lambda: datetime.now(UTC) + ahead,
        )

    return poll


@dataclass(frozen=True)
class Finished:
    """A process that ran to its end."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What `--json` printed."""
        report = json.loads(self.out)
        assert isinstance(report, dict)
        return report


@pytest.fixture
def command(environment: Mapping[str, str]) -> Callable[..., Finished]:
    """A command of the project in a process of its own, on `environment` and what a test adds to it."""

    def command(*arguments: str, **changes: str | None) -> Finished:
        merged = {**os.environ, **environment, **changes}
        own = {name: value for name, value in merged.items() if value is not None}
        done = subprocess.run(
            [sys.executable, *arguments],
            env=own,
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return command


@contextmanager
def process_of(
    environment: Mapping[str, str], *arguments: str, output: Any = subprocess.DEVNULL, **changes: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of the project that runs beside the test, and not longer."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment, **changes},
        cwd=PROJECT_ROOT,
        stdout=output,
        stderr=output,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(is_true: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for something that another process does; fails if it does not."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.1)


def s3_client(endpoint: str) -> Any:
    """A client with the keys of the tests."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3_KEYS["S3_ACCESS_KEY"],
        aws_secret_access_key=S3_KEYS["S3_SECRET_KEY"],
        region_name="us-east-1",
    )


def _free_ports(number: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def _has_bucket(client: Any, name: str, process: subprocess.Popen[bytes]) -> bool:
    """Once it is there; not if the server has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.put_object(Bucket=name, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False


@pytest.fixture
def lake_object(stores: Stores) -> Callable[..., None]:
    """Changes the rows of an object of a folder lake, as a tool of others would: in place, with pyarrow."""

    def change(
        number: int = 0,
        *,
        doubled: bool = False,
        without: str | None = None,
        texts: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        path = sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))[number]
        table = pq.ParquetFile(path).read()
        rows = [row for row in table.to_pylist() if row["event_id"] != without]
        for row in rows:
            old, new = (texts or {}).get(row["event_id"], ("", ""))
            row["raw_event"] = row["raw_event"].replace(old, new) if old else row["raw_event"]
        changed = pa.Table.from_pylist(rows * 2 if doubled else rows, schema=table.schema)
        pq.write_table(changed, path)

    return change
