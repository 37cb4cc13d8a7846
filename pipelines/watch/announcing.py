"""Announces a run to those who do not ask: metrics in a file (METRICS_TEXTFILE), and a heartbeat (HEARTBEAT_URL).

Does so in a thread of its own, after polls: a disk or a server that hangs holds up no event, and a failure is logged.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import requests
from prometheus_client import generate_latest

from pipelines.host.aside import aside
from pipelines.host.masking import masked

from .gap_watch import gap_hours
from .metrics import registry_of
from .running import Running

TIMEOUT_SECONDS = 10
"""For an answer to the heartbeat."""
LAST_SECONDS = 15
"""For the last announcement of a run, at its end."""


@contextmanager
def announcing(running: Running) -> Iterator[Callable[[], None]]:
    """Yields what the loop calls now and then, which costs it next to nothing; announces the end as well."""
    announcer = _Announcer(running)
    thread = threading.Thread(target=announcer.work, daemon=True, name="announcer")
    thread.start()
    try:
        yield announcer.look
    finally:
        announcer.end()
        thread.join(LAST_SECONDS)


class _Announcer:
    def __init__(self, running: Running) -> None:
        self._running = running
        self._is_due = threading.Event()
        self._polls = 0
        """The number of polls that had ended when it was last looked."""
        self._beaten: datetime | None = None
        """The begin of the oldest poll that the last heartbeat was about."""

    def look(self) -> None:
        """Asks for an announcement if a poll has ended since, or something failed."""
        report = self._running.report
        polls = sum(sum(report.poll_seconds(d.name).counts) for d in self._running.destinations)
        polls += report.failures.counts.total()
        if polls != self._polls:
            self._polls = polls
            self._is_due.set()

    def end(self) -> None:
        """Asks for the last announcement."""
        self._running.is_over.set()
        self._is_due.set()

    def work(self) -> None:
        """Announces until the end."""
        is_last = False
        while not is_last:
            # A loop that polls nothing, because all is paused, still says so once an interval.
            self._is_due.wait(max(1.0, self._running.settings.poll_interval_seconds))
            self._is_due.clear()
            is_last = self._running.is_over.is_set()
            if (file := self._running.settings.metrics_textfile) and not self._running.is_done_elsewhere:
                with aside("metrics_file"):
                    self._write(file)
            if url := self._running.settings.heartbeat_url:
                with aside("heartbeat"):
                    self._beat(url)

    def _write(self, file: Path) -> None:
        """Replaces the file at once: who reads it sees the old or the new one, whole."""
        report = self._running.report
        if report.open_gaps is None and self._running.is_over.is_set():
            with aside("gaps"):
                report.open_gaps = gap_hours(self._running.settings)
        text = masked(generate_latest(registry_of(self._running, with_process=False)).decode())
        new = file.with_name(f".{file.name}.{os.getpid()}")
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)  # node_exporter is another user
        new.replace(file)

    def _beat(self, url: str) -> None:
        """Asks for the URL if all streams were loaded whole since the last time, and nothing fails."""
        whole = _loaded_whole(self._running)
        if whole is None or whole == self._beaten:
            return
        requests.get(url, timeout=TIMEOUT_SECONDS).raise_for_status()
        self._beaten = whole


def _loaded_whole(running: Running) -> datetime | None:
    """Returns the begin of the oldest of the streams' latest whole polls; None if one is missing, or anything fails."""
    failures = running.report.failures
    streams = [s for s in running.settings.streams if s not in failures.accounts.refused_versions]
    polls = [running.report.flow(d.name, stream).succeeded for d in running.destinations for stream in streams]
    known = [poll for poll in polls if poll is not None]
    return min(known) if known and len(known) == len(polls) and not failures.failing else None
