"""Beside the loop: reads now and then which hours have a gap, for the metrics. Whatever fails here ends nothing.

So what a `reconcile.py` from cron has found reaches Prometheus, and what it has repaired goes away there.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.host.logs import log
from pipelines.loop.report import Report
from pipelines.settings.settings import Settings
from pipelines.warehouse.status import open_gaps
from sources.cloudflare_audit_logs.streams import Stream

LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS = 60.0, 1.0
"""Between two readings, which take a connection and 40 ms each."""


@contextmanager
def watching_gaps(settings: Settings, report: Report) -> Iterator[None]:
    """Reads until the block ends. A warehouse that hangs holds up nobody: the thread is not waited for."""
    stop = threading.Event()
    threading.Thread(target=_watch, args=(settings, report, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def gap_hours(settings: Settings) -> Counter[Stream] | None:
    """Returns the number of hours with a gap, as they were compared last; None if nothing was ever loaded."""
    gaps = open_gaps(settings.stores)
    return None if gaps is None else Counter(gap.stream for gap in gaps)


def _watch(settings: Settings, report: Report, stop: threading.Event) -> None:
    pause = min(max(settings.poll_interval_seconds, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
    logged = ""
    while not stop.is_set():
        try:
            report.open_gaps = gap_hours(settings)
            logged = ""
        except Exception as error:  # noqa: BLE001  # a metric ends nothing, whatever happens to it
            if str(error) != logged:
                logged = str(error)
                log.warning("gaps.not_read", error=error, hint="they are read again later")
        stop.wait(pause)
