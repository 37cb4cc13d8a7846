"""Beside the loop: compares API, warehouse and lake, hour by hour, when an hour is as old as the settings say.

What has been compared, the table `audit_completeness` says; nothing is kept elsewhere. A stretch of hours at a time,
with a client of its own that gives up at once: what fails is tried again later, and holds up nothing.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sources.cloudflare_audit_logs.budget import Budget
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.traffic import Traffic

from .api import Clock, client_for, page_fetcher
from .completeness import ApiSide, Completeness, HourCheck
from .lake_reads import read_lake
from .logs import log
from .partitions import HOUR, hours_of
from .scratch_pipeline import client_of
from .settings import Settings
from .warehouse import Warehouse
from .warehouse_reads import WarehouseReader, read_warehouse

STRETCH_HOURS = 6
"""Compared at once: a bounded task, however busy an account is."""

LOOK_BACK = timedelta(days=30)
"""How long after its last age an hour is still compared, if we were down when it was due."""

PAUSE_SECONDS = 600
"""Between two looks whether an hour has become due, and after a failure."""

_PATIENCE_SECONDS = 60
"""Longer waits for the API's budget are spent elsewhere."""


class Reconciler:
    """Compares what is due. `is_due` is asked by the loop, `reconcile` runs in a thread, one call at a time."""

    name = "reconciler"

    def __init__(self, settings: Settings, clock: Clock, stop: threading.Event, traffic: Traffic) -> None:
        self._settings = replace(settings, max_retries=0)
        self._clock, self._stop, self._traffic = clock, stop, traffic
        self._budget = Budget(patience_seconds=_PATIENCE_SECONDS)
        self._next = 0.0
        self._ages = [timedelta(hours=hours) for hours in settings.reconcile_after_hours]

    @property
    def is_due(self) -> bool:
        """Whether there may be something to compare."""
        return bool(self._ages) and time.monotonic() >= self._next

    def pause(self) -> None:
        """Nothing is due for a while."""
        self._next = time.monotonic() + PAUSE_SECONDS

    def reconcile(self, begins: Mapping[Stream, datetime]) -> list[HourCheck]:
        """Compares the oldest stretch that is due, if any, and returns the hours that have a gap.

        Args:
            begins: the streams that both stores hold, and from when on.

        Raises:
            AuditLogsError: the API or a store could not be read; to be tried again later.
        """
        store = Warehouse.of(self._settings.stores, clock=self._clock)
        with read_warehouse(store, client_of(store)) as warehouse:
            stretch = next(self._due_stretches(begins, self._clock(), warehouse), None)
            if stretch is None:
                self.pause()
                return []
            stream, window = stretch
            with client_for(self._settings, self._stop, self._clock, self._budget, self._traffic) as client:
                fetch_pages = page_fetcher(client, self._settings, self._stop, self._clock)
                api = ApiSide.read(fetch_pages, stream, window, with_contents=False)
            with read_lake() as lake:
                is_all = not self._settings.hide_user_logs
                completeness = Completeness(warehouse, lake, clock=self._clock, is_all_asked_for=is_all)
                checks = completeness.check(stream, window, api)
        gaps = [check for check in checks if check.is_gap]
        _tell(stream, window, checks, gaps)
        return gaps

    def _due_stretches(
        self, begins: Mapping[Stream, datetime], now: datetime, warehouse: WarehouseReader
    ) -> Iterator[tuple[Stream, Window]]:
        for stream, begin in begins.items():
            window = Window(max(begin, now - max(self._ages) - LOOK_BACK), now)
            checked = {hour: row["checked_at"] for hour, row in warehouse.latest_checks(stream, window).items()}
            stretch = first_stretch(due_hours(window, checked, self._ages))
            if stretch is not None:
                yield stream, stretch


def due_hours(window: Window, checked: Mapping[datetime, datetime], ages: Sequence[timedelta]) -> Iterator[datetime]:
    """The hours, whole in the window, that were not compared since they came to the last age that they have reached."""
    for hour in hours_of(window.since, window.before):
        reached = [hour + HOUR + age for age in ages if hour + HOUR + age <= window.before]
        if hour >= window.since and reached and (hour not in checked or checked[hour] < max(reached)):
            yield hour


def first_stretch(hours: Iterator[datetime]) -> Window | None:
    """The first hours that follow on each other, not more than may be compared at once."""
    since = next(hours, None)
    if since is None:
        return None
    before = since + HOUR
    for hour in hours:
        if hour != before or before - since >= STRETCH_HOURS * HOUR:
            break
        before += HOUR
    return Window(since, before)


def _tell(stream: Stream, window: Window, checks: Sequence[HourCheck], gaps: Sequence[HourCheck]) -> None:
    about = {"account": stream.account_id, "version": stream.api_version}
    events = sum(max(check.events.values(), default=0) for check in checks)
    since, before = window.since.isoformat(), window.before.isoformat()
    log.info("reconcile.compared", **about, since=since, before=before, events=events, gaps=len(gaps))
    for gap in gaps:
        hint = f"pipelines/reconcile.py --since {since} --before {before} --repair"
        log.error("reconcile.gap", **about, hour=gap.hour.isoformat(), found="; ".join(gap.problems), hint=hint)
