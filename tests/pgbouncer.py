"""A real PgBouncer before the tests' PostgreSQL, with default settings but for the mode; gone with its block."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.servers.commands import wait_until
from benchmarks.servers.seaweed import free_ports
from pipelines.settings.settings import PostgresSettings

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer (Debian's package pgbouncer)")


@contextmanager
def pooled(
    server: PostgresSettings, folder: Path, mode: str, *, user: str | None = None, **settings: str
) -> Iterator[PostgresSettings]:
    """Yields the settings that reach the server through a pooler; `user` is a name that it alone knows."""
    (port,) = free_ports(1)
    user = user or server.user
    folder.mkdir(mode=0o755)
    (folder / "users.txt").write_text(f'"{user}" "{server.password}"\n')
    target = f"host={server.host} port={server.port} user={server.user} password={server.password}"
    lines = {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "scram-sha-256"}
    lines |= {"auth_file": str(folder / "users.txt"), "pool_mode": mode, "logfile": str(folder / "log"), **settings}
    if os.geteuid() == 0:
        lines["user"] = "nobody"
    written = "\n".join(f"{name} = {value}" for name, value in lines.items())
    (folder / "pgbouncer.ini").write_text(f"[databases]\n* = {target}\n[pgbouncer]\n{written}\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    (folder / "log").touch()
    (folder / "log").chmod(0o666)
    process = subprocess.Popen([PROGRAM or "", "-q", str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port))
        yield replace(server, host="127.0.0.1", port=port, user=user)
    finally:
        process.terminate()
        process.wait(120)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except OSError:
        return False
