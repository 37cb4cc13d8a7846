"""A Dask cluster on loopback: a scheduler and workers, each a process of its own, as a user starts them."""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .commands import process_of, wait_until


@dataclass
class Cluster:
    """Where it is, and what its processes say."""

    url: str
    folder: Path
    scheduler: "subprocess.Popen[bytes]"
    workers: "list[subprocess.Popen[bytes]]"
    start_worker: Callable[[Mapping[str, str]], int]
    """Adds one, returns its number, and does not wait for it."""

    @property
    def logs(self) -> str:
        """The logs of all processes."""
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("*.log")))

    def wait_for_worker(self, number: int) -> None:
        """Until the scheduler has it."""
        _wait_for(r"Registered to:\s+(\w+://\S+)", self.folder / f"worker{number}.log", self.workers[number])


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
        workers: list[subprocess.Popen[bytes]] = []

        def start_worker(environment: Mapping[str, str]) -> int:
            name = f"worker{len(workers)}"
            own = ["--nthreads", "1", "--local-directory", str(folder / name), *options]
            arguments = ["worker", url, "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", *own]
            workers.append(_start(stack, folder / f"{name}.log", environment, *arguments, **changes)[0])
            return len(workers) - 1

        cluster = Cluster(url, folder, scheduler, workers, start_worker)
        for number in list(map(start_worker, environments)):
            cluster.wait_for_worker(number)
        yield cluster
        if scheduler.poll() is None:  # a worker without one ends in its own time
            for process in (*workers, scheduler):
                if process.poll() is None:
                    process.terminate()
                    process.wait(120)


def _start(
    stack: ExitStack, log: Path, environment: Mapping[str, str], *arguments: str, **changes: str
) -> "tuple[subprocess.Popen[bytes], Path]":
    output = stack.enter_context(log.open("wb"))
    return stack.enter_context(process_of(environment, "-m", "dask", *arguments, output=output, **changes)), log


def _wait_for(pattern: str, log: Path, process: "subprocess.Popen[bytes]") -> str:
    wait_until(lambda: bool(re.search(pattern, log.read_text())) or process.poll() is not None)
    found = re.search(pattern, log.read_text())
    if found is None:
        raise RuntimeError(log.read_text())
    return found[1]
