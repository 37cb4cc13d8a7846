"""The commands of the project as processes beside a test or a benchmark."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.settings.settings import PROJECT_ROOT


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


@contextmanager
def process_of(
    environment: Mapping[str, str], *arguments: str, output: Any = subprocess.DEVNULL, **changes: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of the project that runs beside the test, and not longer."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment, **changes},
        cwd=PROJECT_ROOT,
        stdout=output,
        stderr=output,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(is_true: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for something that another process does; fails if it does not."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError("waited in vain")
        time.sleep(0.1)
