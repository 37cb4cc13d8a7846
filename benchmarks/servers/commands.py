"""The commands of the project as processes beside a test or a benchmark."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.settings.settings import PROJECT_ROOT

from .forks import start_python


@dataclass(frozen=True)
class Finished:
    """A process that ran to its end."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The output of `--json`."""
        report = json.loads(self.out)
        assert isinstance(report, dict)
        return report


def finished(environment: Mapping[str, str], *arguments: str, seconds: float = 240) -> Finished:
    """Runs a command of the project, with this environment and no other, to its end."""
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start_python(arguments, env=environment, cwd=PROJECT_ROOT, **output) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            if process.poll() is None:
                process.kill()
    return Finished(process.returncode, out, err)


@contextmanager
def process_of(
    environment: Mapping[str, str], *arguments: str, output: Any = subprocess.DEVNULL, **changes: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of the project that runs beside the test, and not longer."""
    env = {**os.environ, **environment, **changes}
    process = start_python(arguments, env=env, cwd=PROJECT_ROOT, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(is_true: Callable[[], bool], seconds: float = 240) -> None:
    """Waits for something that another process does; fails if it does not."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError("waited in vain")
        time.sleep(0.1)
