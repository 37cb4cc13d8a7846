"""A Dask cluster on loopback: a scheduler and workers, each a process of its own, as a user starts them."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import process_of, wait_until


@dataclass
class Cluster:
    """Where it is, and what its processes say."""

    url: str
    folder: Path
    scheduler: "subprocess.Popen[bytes]"
    workers: "list[subprocess.Popen[bytes]]"

    @property
    def logs(self) -> str:
        """Of all of them."""
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("*.log")))


@contextmanager
def dask_cluster(
    folder: Path, *environments: Mapping[str, str], options: Sequence[str] = ("--no-nanny",), **changes: str
) -> Iterator[Cluster]:
    """A scheduler that knows none of the settings, and a worker with one thread for each environment."""
    folder.mkdir()
    with ExitStack() as stack:
        at = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        scheduler, log = _start(stack, folder / "scheduler.log", {}, "scheduler", *at, **changes)
        url = _wait_for(r"Scheduler at:\s+(\w+://\S+)", log, scheduler)
        started = []
        for number, environment in enumerate(environments):
            own = ["--nthreads", "1", "--local-directory", str(folder / f"worker{number}"), *options]
            arguments = ["worker", url, "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", *own]
            started.append(_start(stack, folder / f"worker{number}.log", environment, *arguments, **changes))
        for process, log in started:
            _wait_for(r"Registered to:\s+(\w+://\S+)", log, process)
        yield Cluster(url, folder, scheduler, [process for process, _ in started])
        if scheduler.poll() is None:  # a worker without one ends in its own time
            for process in (*(worker for worker, _ in started), scheduler):
                if process.poll() is None:
                    process.terminate()
                    process.wait(30)


def _start(
    stack: ExitStack, log: Path, environment: Mapping[str, str], *arguments: str, **changes: str
) -> "tuple[subprocess.Popen[bytes], Path]":
    output = stack.enter_context(log.open("wb"))
    return stack.enter_context(process_of(environment, "-m", "dask", *arguments, output=output, **changes)), log


def _wait_for(pattern: str, log: Path, process: "subprocess.Popen[bytes]") -> str:
    wait_until(lambda: bool(re.search(pattern, log.read_text())) or process.poll() is not None)
    found = re.search(pattern, log.read_text())
    if found is None:
        pytest.fail(log.read_text())
    return found[1]
