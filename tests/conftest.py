"""Real servers for the tests: a PostgreSQL, an S3 store and a Cloudflare, on loopback, gone when the tests are."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dotenv import dotenv_values
from hypothesis import HealthCheck, settings

from benchmarks.servers.commands import Finished, finished
from benchmarks.servers.forks import forking
from benchmarks.servers.seaweed import Bucket, seaweed
from pipelines.cli.main_job import run
from pipelines.fetch.reading import DEFAULT_LIMITS, StepLimits
from pipelines.loop.report import Report
from pipelines.settings.reader import OWN_PREFIXES
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_settings
from pipelines.warehouse.embedded import embedded_postgres
from simulator.api import Api
from simulator.server import serving
from simulator.world import World

from .clock import Clock
from .factory import ACCOUNT, OTHER_ACCOUNT
from .stores import Stores, close_connections, drop_schemas

TOKEN = "simulated-token"
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long` and `--part`."""
    parser.addoption("--long", action="store_true", help="run the long tests, too")
    parser.addoption("--part", metavar="K/N", help="run the Kth of N parts of the long tests, and no others")


def pytest_configure() -> None:
    """Lets the processes of the tests hear SIGINT: a shell that begins these in the background has it ignored.

    And an example of hypothesis may take long where much else runs.
    """
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: a test waits for its servers, and some for time to pass."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves those out that are not asked for, and says how many."""
    number, _, parts = (config.getoption("--part") or "").partition("/")
    seen = set[str]()

    def is_long(item: pytest.Item) -> bool:
        rule = item.nodeid.partition("[")[0]
        is_another_case = item.get_closest_marker("wide") is not None and rule in seen
        seen.add(rule)
        return is_another_case or item.get_closest_marker("long") is not None

    def is_asked_for(item: pytest.Item) -> bool:
        if parts:
            return is_long(item) and crc32(item.nodeid.encode()) % int(parts) == int(number) % int(parts)
        return config.getoption("--long") or not is_long(item)

    asked_for = {item: is_asked_for(item) for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not asked_for[item]])
    items[:] = [item for item in items if asked_for[item]]


@pytest.fixture(scope="session", autouse=True)
def _forks() -> Iterator[None]:
    """Lets the commands start in a moment; that they start as a user starts them is `test_entry`'s."""
    with forking():
        yield


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
        close_connections()


@pytest.fixture(scope="session")
def bucket(server_dir: Path) -> Iterator[Bucket]:
    """A bucket on SeaweedFS."""
    with seaweed(server_dir) as bucket:
        yield bucket


@pytest.fixture
def clock() -> Clock:
    """At some time."""
    return Clock()


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
    schema = f"test_{os.getpid()}_{next(_numbers)}"
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
            "PG_SCHEMA": schema,
        }
    drop_schemas(postgres, schema)


@pytest.fixture
def both_versions(environment: dict[str, str]) -> None:
    """The default, v1 and v2, for a test that does not keep to one version."""
    del environment["CLOUDFLARE_API_VERSION"]


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


@pytest.fixture
def command(environment: Mapping[str, str]) -> Callable[..., Finished]:
    """A command of the project in a process of its own, on `environment` and what a test adds to it."""

    def command(*arguments: str, **changes: str | None) -> Finished:
        merged = {**os.environ, **environment, **changes}
        return finished({name: value for name, value in merged.items() if value is not None}, *arguments)

    return command


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
