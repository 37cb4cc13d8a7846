"""The warehouse on a real TimescaleDB: TEST_TIMESCALE_DSN is a superuser's URL of a server with its library loaded.

The tests make databases of their own in it, and change its licence for a moment: they run one after the other.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.events import insert_events
from pipelines.loop.report import Report
from pipelines.settings.settings import PostgresSettings
from tests.stores import Stores

DSN = os.environ.get("TEST_TIMESCALE_DSN", "")
Poll = Callable[..., Report]
_numbers = count(1)

COMPRESS_ALL = """
    SELECT count(compress_chunk(c)) AS n FROM show_chunks('{schema}.audit_logs', older_than => now()) AS c
"""


@pytest.fixture
def timescale() -> Iterator[Stores]:
    """The server's own database; one test at a time."""
    url = urlsplit(DSN)
    server = PostgresSettings(
        url.hostname or "", url.port or 5432, url.path[1:] or "postgres", url.username or "", url.password or "none"
    )
    with (Path(tempfile.gettempdir()) / "audit-timescale-tests.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Stores(server, "public", Path())


@pytest.fixture
def stores(timescale: Stores, environment: dict[str, str]) -> Iterator[Stores]:
    """A new database on it, without the extension, and the settings that name it."""
    name = f"audit_{os.getpid()}_{next(_numbers)}"
    timescale.query(f"CREATE DATABASE {name}")
    server = timescale.postgres
    environment |= {
        "PG_HOST": server.host,
        "PG_PORT": str(server.port),
        "PG_DATABASE": name,
        "PG_USER": server.user,
        "PG_PASSWORD": server.password,
    }
    own = PostgresSettings(server.host, server.port, name, server.user, server.password)
    yield Stores(own, environment["PG_SCHEMA"], Path(environment["DATA_DIR"]) / "lake", environment)
    timescale.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def filled(poll: Poll, stores: Stores) -> Stores:
    """120,000 events in 60 days, all but the last week's compressed: more than may be decompressed at once."""
    poll(TIMESCALE_COMPRESS_AFTER_DAYS="36500")  # by us, not by the policy meanwhile
    stores.query(insert_events(stores.schema, 120_000, datetime.now(UTC), timedelta(days=60)))
    stores.query(COMPRESS_ALL)
    stores.query("ANALYZE {schema}.audit_logs")
    return stores
