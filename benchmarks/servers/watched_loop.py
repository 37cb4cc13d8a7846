"""Runs the loop as a process, and reads its own metrics."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from pipelines.settings.settings import PROJECT_ROOT

SECONDS = 5.0
"""The time for which a loop is watched."""


@dataclass(frozen=True)
class Reading:
    """Values of the loop's metrics: seconds, bytes, counts."""

    cpu: float
    memory: float
    requests: float
    events: float
    stored: float
    accounts_up: float


class Watched:
    """A running loop."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self.pid = url, pid

    def read(self) -> Reading:
        """Reads the metrics now."""
        with urlopen(self._url) as answer:  # noqa: S310  # our own process
            text = answer.read().decode()
        names = {
            "cpu": "process_cpu_seconds_total",
            "memory": "process_resident_memory_bytes",
            "requests": "cloudflare_audit_api_requests_total",
            "events": "cloudflare_audit_events_fetched_total",
            "stored": "cloudflare_audit_events_stored_total",
            "accounts_up": "cloudflare_audit_account_up",
        }
        found = {field: re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for field, name in names.items()}
        return Reading(**{field: sum(map(float, values)) for field, values in found.items()})

    def settle(self, *, requests: float) -> Reading:
        """Waits until the loop has sent so many requests; returns the metrics then."""
        deadline = time.monotonic() + 60
        while (reading := self.read()).requests < requests:
            give_up_after(deadline, f"{reading.requests} of {requests} requests")
            time.sleep(0.2)
        return reading

    def watch(self, seconds: float = SECONDS) -> Reading:
        """Returns the increase in so many seconds; memory and accounts as they are at the end."""
        before = self.read()
        time.sleep(seconds)
        after = self.read()
        return Reading(
            cpu=after.cpu - before.cpu,
            memory=after.memory,
            requests=after.requests - before.requests,
            events=after.events - before.events,
            stored=after.stored - before.stored,
            accounts_up=after.accounts_up,
        )


@contextmanager
def looping(environment: Mapping[str, str], **changes: str) -> Iterator[Watched]:
    """Runs `run.py` as long as the block."""
    own = {"METRICS_PORT": "0", "METRICS_HOST": "127.0.0.1", **changes}
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "pipelines/run.py"],
            cwd=PROJECT_ROOT,
            env={**environment, **own},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            yield Watched(_metrics_url(Path(log.name), process), process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _metrics_url(log: Path, process: "subprocess.Popen[bytes]") -> str:
    while process.poll() is None:
        if found := re.search(r"metrics\.serving host=(\S+) port=(\d+)", log.read_text()):
            return f"http://{found[1]}:{found[2]}/metrics"
        time.sleep(0.1)
    raise RuntimeError(f"the loop ended: {log.read_text()[-2000:]}")


def give_up_after(deadline: float, what: str) -> None:
    """Raises RuntimeError once the deadline has passed."""
    if time.monotonic() > deadline:
        raise RuntimeError(f"waited in vain: {what}")
