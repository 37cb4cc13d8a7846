"""Python processes that start at once: forked from one that has loaded the libraries, and none of our code.

A real process with a pid, an environment and streams of its own, whose parent is the caller: it can be waited for, sent
signals and killed. What it runs imports this project's modules itself.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ctypes import CDLL
from pathlib import Path
from typing import Any

LIBRARIES = (  # some are in dependency groups of their own
    "adbc_driver_postgresql.dbapi",
    "altair",
    "distributed.cli",
    "dlt.destinations",
    "dlt.destinations.impl.filesystem.filesystem",
    "dlt.destinations.impl.postgres.postgres",
    "duckdb",
    "marimo",
    "prometheus_client",
    "psycopg2",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pyarrow.parquet",
    "requests",
    "rich.progress",
    "s3fs",
    "tqdm",
    "uvicorn",
)
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "ARROW_", "DASK_", "MALLOC_", "TZ")
_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_LONGEST_REQUEST = 1 << 20


class Forks:
    """The process that forks, begun at its first use."""

    def __init__(self) -> None:
        self.environment = _at_start(os.environ)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: Sequence[str], cwd: str, env: Mapping[str, str], streams: Sequence[int]) -> int:
        """Returns the pid of a new child of this process that runs `python` with the arguments."""
        request = json.dumps([list(arguments), cwd, dict(env)]).encode()
        with self._lock:
            ours = self._connection()
            # Adopts the child when the process between has ended, which is so before the answer comes.
            _adopt_orphans(on=True)
            try:
                socket.send_fds(ours, [len(request).to_bytes(4)], list(streams))
                ours.sendall(request)
                return int.from_bytes(_read(ours, 4))
            finally:
                _adopt_orphans(on=False)

    def close(self) -> None:
        """Ends it; what it forked runs on."""
        if self._socket and self._process:
            self._socket.close()
            self._process.wait()

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, __file__, str(theirs.fileno())]
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        return self._socket


class _Forked(subprocess.Popen[Any]):
    """A `Popen` whose process is forked."""

    forks: Forks

    def _execute_child(self, args: Any, *others: Any) -> None:
        """In the place of `subprocess`'s own, with its arguments."""
        cwd, env = others[4:6]
        streams = others[9:15]
        standard = [own if own >= 0 else number for number, own in enumerate((streams[0], streams[3], streams[5]))]
        self.pid = self.forks.start(args[1:], str(cwd), env, standard)
        self._child_created = True
        self._close_pipe_fds(*streams)  # type: ignore[attr-defined]


_used: list[Forks] = []


@contextmanager
def forking() -> Iterator[None]:
    """As long as the block runs, `start_python` forks; by means of Linux alone."""
    if sys.platform != "linux":
        yield
        return
    _used.append(Forks())
    try:
        yield
    finally:
        _used.pop().close()


def start_python(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, **options: Any) -> Any:
    """A `Popen` of `python` with the arguments; an interpreter of its own where forking would be another thing."""
    command = [sys.executable, *arguments]
    is_plain = arguments[0] in {"-c", "-m"} or not arguments[0].startswith("-")
    if not (_used and is_plain and _at_start(env) == _used[-1].environment):
        return subprocess.Popen(command, env=env, cwd=cwd, **options)
    forked = type("Forked", (_Forked,), {"forks": _used[-1]})
    return forked(command, env=env, cwd=cwd, **options)


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _adopt_orphans(*, on: bool) -> None:
    CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _read(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        piece = connection.recv(length - len(got))
        if not piece:
            raise EOFError
        got += piece
    return got


def _serve(ours: socket.socket) -> tuple[list[str], str, dict[str, str]] | None:
    """Returns in each forked process with what it is to run, and in this one with nothing when its user has gone."""
    for name in LIBRARIES:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        length, streams, _, _ = socket.recv_fds(ours, 4, 3)
        if not length:
            return None
        request = json.loads(_read(ours, int.from_bytes(length)))
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child:
                os.write(writing, child.to_bytes(4))
                os._exit(0)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for own in {reading, writing, *streams} - {0, 1, 2}:  # what a library has open stays so
                os.close(own)
            ours.close()
            return request  # type: ignore[no-any-return]
        for stream in streams:
            os.close(stream)
        os.waitpid(between, 0)
        ours.sendall(os.read(reading, 4))
        os.close(reading)
        os.close(writing)


def _run(arguments: list[str], cwd: str, environment: Mapping[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    time.tzset()
    sys.path.insert(0, "")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    match arguments:
        case ["-m", name, *rest]:
            sys.argv, sys.path[0] = [name, *rest], cwd
            runpy._run_module_as_main(name)  # type: ignore[attr-defined]  # noqa: SLF001  # what `python -m` calls
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(code, "<string>", "exec"), main.__dict__)  # noqa: S102  # as `python` does
        case [file, *_]:
            sys.argv, sys.path[0] = arguments, str(Path(file).resolve().parent)
            main.__file__ = file
            exec(compile(Path(file).read_text(), file, "exec"), main.__dict__)  # noqa: S102


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are no libraries
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, ConnectionError):  # its user was killed
        asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked:
        signal.signal(signal.SIGINT, handler)
        _run(*asked)
