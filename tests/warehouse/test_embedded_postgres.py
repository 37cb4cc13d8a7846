"""The embedded PostgreSQL starts on any host, and comes back where those who use it look for it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pytest

from benchmarks.servers.commands import wait_until
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from pipelines.warehouse.embedded import BINARIES, _is_free, embedded_postgres, ensure_running, running_server
from sources.cloudflare_audit_logs.errors import TemporaryError

pytestmark = pytest.mark.integration

START = """
import sys
from pathlib import Path
from pipelines.warehouse.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as server:
    print(server.port)
"""


@pytest.mark.parametrize("locale", ["en_DE.UTF-8", "de_DE.ISO-8859-1", "nonsense"])
def test_it_starts_whatever_locale_the_user_brings(server_dir: Path, locale: str) -> None:
    """By ssh from elsewhere, say: this host need not have it."""
    environment = {**os.environ, "LC_ALL": locale, "LANG": locale}

    done = subprocess.run(
        [sys.executable, "-c", START, str(server_dir / f"postgres-{locale}")],
        env=environment,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="for root alone: others have no capabilities to lose")
@pytest.mark.skipif(
    not all(folder.stat().st_mode & 0o001 for folder in BINARIES.parents), reason="nobody may enter this folder"
)
def test_it_starts_as_root_without_the_capability_to_read_everything(server_dir: Path) -> None:
    """Containers do not have it."""
    command = [sys.executable, "-c", START, str(server_dir / "postgres-contained")]

    done = subprocess.run(
        [str(shutil.which("setpriv")), "--bounding-set=-dac_read_search", *command],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_a_server_that_was_killed_comes_back_at_its_port_or_says_who_is_there(server_dir: Path) -> None:
    """Its users know it by its port: at another one they would never find it."""
    folder = server_dir / "postgres-killed"
    with embedded_postgres(folder) as server:
        os.kill(int((folder / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        wait_until(lambda: running_server(folder) is None)
        with _taking(server.port), pytest.raises(TemporaryError, match=f"port {server.port}"):
            ensure_running(folder)

        ensure_running(folder)

        assert running_server(folder) == server


def test_the_last_holder_out_stops_it_and_the_data_stay(server_dir: Path) -> None:
    """Two holders share one server."""
    folder = server_dir / "embedded-shared"
    with embedded_postgres(folder) as first:
        with embedded_postgres(folder) as second:
            assert first == second
        _execute(first, "CREATE TABLE kept AS SELECT 1 AS one")
    assert running_server(folder) is None

    with embedded_postgres(folder) as again:
        assert _execute(again, "SELECT one FROM kept") == [{"one": 1}]
    assert Path(f"{folder}.password").stat().st_mode & 0o777 == 0o600


def test_a_killed_holder_leaves_a_server_that_the_next_one_uses_and_stops(server_dir: Path) -> None:
    """The kernel drops the lock of the dead."""
    folder = server_dir / "embedded-killed"
    code = (
        "import os, pathlib, signal, sys; from pipelines.warehouse.embedded import embedded_postgres\n"
        "with embedded_postgres(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=PROJECT_ROOT, check=False)

    left_behind = running_server(folder)
    with embedded_postgres(folder) as server:
        assert (killed.returncode, left_behind) == (-signal.SIGKILL, server)
    assert running_server(folder) is None


def test_an_interrupted_initdb_is_done_again(server_dir: Path) -> None:
    """A folder without a finished cluster is in nobody's way."""
    folder = server_dir / "embedded-torn"
    (folder / "base").mkdir(parents=True)

    with embedded_postgres(folder) as server:
        assert _execute(server, "SELECT 1 AS one") == [{"one": 1}]


@contextmanager
def _taking(port: int) -> Iterator[None]:
    wait_until(lambda: _is_free(port))  # the server's children go after it
    with socket.create_server(("127.0.0.1", port)):
        yield


def _execute(server: PostgresSettings, sql: str) -> list[dict[str, Any]]:
    uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"
    with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table().to_pylist() if cursor.description else []
