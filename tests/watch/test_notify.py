"""The loop reports to systemd when it is ready, alive and stopping, and only because of work that was done."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from pipelines.loop.failures import Failures
from pipelines.loop.report import Report
from pipelines.settings.settings import read_settings
from pipelines.watch.systemd import Supervisor
from simulator.api import Api, Fault
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, ago, spread

pytestmark = pytest.mark.integration


class Socket:
    """A supervisor's socket, with all messages that it received."""

    def __init__(self, listening: socket.socket, name: str) -> None:
        self._socket, self.name = listening, name
        self._heard: list[str] = []

    @property
    def heard(self) -> list[str]:
        """All lines so far."""
        while True:
            try:
                self._heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._heard

    def has(self, line: str) -> bool:
        """True if this message was received."""
        return line in self.heard


@contextmanager
def _listening(name: str) -> Iterator[Socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        listening.settimeout(0)
        yield Socket(listening, name)


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Socket]:
    """Listens at a path, or at an abstract address."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@audit-test-{os.getpid()}-{time.monotonic_ns()}"
    with _listening(name) as it:
        yield it


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Socket]:
    """Listens at a path."""
    with _listening(str(tmp_path / "notify")) as it:
        yield it


def test_a_loop_tells_its_whole_life(api: Api, environment: Mapping[str, str], supervisor: Socket) -> None:
    """Ready once something is loaded, alive at each cycle, its state in one line, and that it stops."""
    api.world.add(ACCOUNT, "v1", spread(12, ago(hours=1), ago(minutes=1)))
    changes = {"POLL_INTERVAL_SECONDS": "0.3", "NOTIFY_SOCKET": supervisor.name}

    with process_of(environment, "pipelines/run.py", **changes) as process:
        wait_until(lambda: supervisor.has("READY=1"))
        before = supervisor.heard.count("WATCHDOG=1")
        wait_until(lambda: supervisor.heard.count("WATCHDOG=1") > before + 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0

    heard = supervisor.heard
    assert heard.count("READY=1") == 1
    assert any("warehouse 12 new, lake 12 new" in line for line in heard if line.startswith("STATUS="))
    assert not any(line.startswith("WATCHDOG_USEC=") for line in heard)
    assert heard.count("STOPPING=1") == 1
    assert heard.index("READY=1") < heard.index("STOPPING=1")


def test_a_loop_that_hangs_feeds_no_watchdog(environment: Mapping[str, str], listener: Socket) -> None:
    """A hanging loop sends no watchdog message, and is not ready while its first poll waits for a silent API."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with process_of(environment, "pipelines/run.py", CLOUDFLARE_API_URL=url, NOTIFY_SOCKET=listener.name):
            connection, _ = silent.accept()
            time.sleep(1)
            before = len(listener.heard)
            time.sleep(3)
            heard = list(listener.heard)
            connection.close()

    assert len(heard) == before
    assert "READY=1" not in heard


def test_a_first_poll_that_fails_is_ready_and_alive(api: Api, environment: Mapping[str, str], listener: Socket) -> None:
    """A failed first poll is progress, or the supervisor would end the loop; so is a poll whose accounts all pause."""
    api.faults.append(Fault(status=403, times=None))

    with process_of(environment, "pipelines/run.py", NOTIFY_SOCKET=listener.name, POLL_INTERVAL_SECONDS="0.3"):
        wait_until(lambda: listener.has("READY=1"))
        before = listener.heard.count("WATCHDOG=1")
        wait_until(lambda: listener.heard.count("WATCHDOG=1") > before + 5)

    assert any("1 failed" in line for line in listener.heard)
    assert len(api.requests) == 1


def test_a_socket_that_is_gone_is_warned_of(command: Callable[..., Finished], tmp_path: Path) -> None:
    """Once; the run goes on."""
    done = command("pipelines/run.py", "--once", NOTIFY_SOCKET=str(tmp_path / "none"))

    assert done.code == 0
    assert done.err.count("notify.failed") == 1


@pytest.mark.parametrize(("set_to", "raised"), [("1000000", True), ("2000000000", False), (None, False)])
def test_a_watchdog_is_made_as_patient_as_a_healthy_loop_needs_it(
    listener: Socket, monkeypatch: pytest.MonkeyPatch, set_to: str | None, *, raised: bool
) -> None:
    """One that is off stays off, and one that is more patient stays as it is."""
    monkeypatch.setenv("NOTIFY_SOCKET", listener.name)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if set_to:
        monkeypatch.setenv("WATCHDOG_USEC", set_to)
    settings = read_settings({"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": ACCOUNT}, now=ago())
    report = Report(Failures(settings))
    report.failures.note_destination("lake", AuditLogsError("down"))

    Supervisor(960).follow(report)

    assert "READY=1" in listener.heard
    assert listener.has("WATCHDOG_USEC=960000000") == raised
