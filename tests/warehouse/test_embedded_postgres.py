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

import pytest

from benchmarks.servers.commands import wait_until
from pipelines.settings.settings import PROJECT_ROOT
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


@contextmanager
def _taking(port: int) -> Iterator[None]:
    wait_until(lambda: _is_free(port))  # the server's children go after it
    with socket.create_server(("127.0.0.1", port)):
        yield
