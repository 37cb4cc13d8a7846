"""The main job as a process of its own, to be killed, and servers in trouble."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.servers.commands import process_of
from benchmarks.servers.s3_gate import Gate, gate_before
from benchmarks.servers.seaweed import Bucket
from pipelines.settings.settings import PostgresSettings

from .proxy import Proxy


@dataclass
class Running:
    """A loop in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log_file: Path

    @property
    def log(self) -> str:
        """The process's log so far."""
        return self.log_file.read_text()


RunLoop = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def running(environment: Mapping[str, str], tmp_path: Path) -> RunLoop:
    """Runs the loop, polling every 0.2 seconds, as long as the block; it has to end well on SIGTERM."""

    @contextmanager
    def running(*command: str, name: str = "loop", **changes: str) -> Iterator[Running]:
        log_file = tmp_path / f"{name}.log"
        settings = {"POLL_INTERVAL_SECONDS": "0.2", **changes}
        arguments = command or ("pipelines/run.py",)
        with log_file.open("ab") as output, process_of(environment, *arguments, output=output, **settings) as process:
            try:
                yield Running(process, log_file)
            finally:
                print(log_file.read_text())  # pytest shows it if the test fails
            process.send_signal(signal.SIGTERM)
            process.wait(120)
        assert process.returncode in {0, -signal.SIGKILL, 75}, log_file.read_text()
        assert "Traceback" not in log_file.read_text()

    return running


@pytest.fixture
def warehouse_proxy(postgres: PostgresSettings, environment: dict[str, str]) -> Iterator[Proxy]:
    """Stands before the warehouse of `environment`."""
    with Proxy(postgres.host, postgres.port) as proxy:
        environment["PG_PORT"] = str(proxy.port)
        yield proxy


@pytest.fixture
def lake_gate(bucket: Bucket, environment: dict[str, str], tmp_path: Path) -> Iterator[Gate]:
    """Stands before the lake of `environment`, which is a bucket then."""
    with gate_before(bucket.endpoint) as gate:
        environment.update(bucket.settings(prefix=tmp_path.name), S3_ENDPOINT=gate.url)
        yield gate
