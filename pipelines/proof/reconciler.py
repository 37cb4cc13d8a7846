"""Beside the loop: compares API, warehouse and lake, hour by hour, when an hour is as old as the settings say.

The table `audit_completeness` says which hours were compared; nothing is kept elsewhere. Stretches of hours, of each
account in turn, without retries: a failure of any kind is logged and tried again later, and holds up nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta

from pipelines.fetch.api import Clock, StopRequestedError, open_api
from pipelines.host.aside import aside, words_of
from pipelines.host.logs import log
from pipelines.lake.day_copies import AccountDay
from pipelines.lake.partitions import DAY, HOUR, hours_of
from pipelines.lake.reads import read_lake
from pipelines.load.store import client_of
from pipelines.loop.report import Report
from pipelines.settings.settings import Settings
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.reads import WarehouseReader, read_warehouse
from sources.cloudflare_audit_logs.budget import Budgets
from sources.cloudflare_audit_logs.errors import AccountError
from sources.cloudflare_audit_logs.streams import Stream, Window

from .compare import STORES, Completeness, HourCheck
from .sides import ApiSide

STRETCH_HOURS = 6
"""Compared at once: a bounded task, however busy an account is."""

SHARE_OF_INTERVAL = 0.25
"""The share of the time between two polls for comparing, if so much is due: 12 stretches a day and account.
Their cost: docs/scale/model.md."""

SHARE_OF_BUDGET = 0.9
"""The share of the loop's budget: the polls go on where comparing stops."""

LONGEST_SECONDS = 60
"""However rare the polls are."""

LOOK_BACK = timedelta(days=30)
"""An hour is still compared so long after its last age, if we were down when it was due."""

PAUSE_SECONDS = 600
"""Between two looks whether an hour has become due, and after a failure."""

DEADLINE_SECONDS = 900
"""A comparison that takes longer hangs."""

_PATIENCE_SECONDS = 60
"""Longer waits for the API's budget are spent elsewhere."""


class Reconciler:
    """Compares what is due, as a task of the loop's background: it neither holds up nor ends the loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        report: Report,
        budgets: Budgets,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """It takes what the polls leave of their budgets, but for a tenth; gaps go into the report."""
        self._settings = replace(settings, max_retries=0)
        self._clock, self._report, self._monotonic = clock, report, monotonic
        self._budgets = Budgets(share=SHARE_OF_BUDGET, patience_seconds=_PATIENCE_SECONDS, beside=budgets)
        self._next = 0.0
        self._turn: list[Stream] = []
        """The stream that is compared next comes first."""
        self._rests: dict[Stream, float] = {}
        """Streams that could not be read, and until when they are left alone."""
        self._gaps: list[HourCheck] = []
        """Found, and not reported yet."""
        self.compared: set[AccountDay] = set()
        """The days that were compared, and those before them: then the last hours of these are closed, too."""
        self._ages = [timedelta(hours=hours) for hours in settings.reconcile_after_hours]
        self.deadline_seconds = DEADLINE_SECONDS

    @property
    def is_due(self) -> bool:
        """True if there may be something to compare."""
        return bool(self._ages) and self._monotonic() >= self._next

    def note(self, ended: "Future[list[HourCheck]]") -> None:
        """Reports the hours with gaps that a comparison has found, or logs why it failed."""
        if error := ended.exception():
            self._pause()
            if not isinstance(error, StopRequestedError):
                log.warning("reconcile.failed", error=words_of(error), hint="it is tried again later")
            return
        for gap in ended.result():
            with aside("measurements"):
                self._report.add_gap(gap.stream, {store: len(gap.missing.get(store, [])) for store in STORES})

    def _pause(self) -> None:
        self._next = self._monotonic() + PAUSE_SECONDS

    def work(self, begins: Mapping[Stream, datetime], stop: threading.Event) -> list[HourCheck]:
        """Compares stretches that are due, of each stream in turn, for a while; returns the hours that have a gap.

        `begins` are the streams that both stores hold, and from when on.
        """
        patience = min(SHARE_OF_INTERVAL * self._settings.poll_interval_seconds, LONGEST_SECONDS)
        give_up_at = self._monotonic() + patience
        store = Warehouse.of(self._settings.stores, clock=self._clock)
        with (
            read_warehouse(store, client_of(store)) as warehouse,
            read_lake() as lake,
            open_api(self._settings, stop, self._clock, self._budgets, self._report.traffic) as fetch_pages,
        ):
            is_all = self._settings.is_all_asked_for
            completeness = Completeness(warehouse, lake, clock=self._clock, is_all_asked_for=is_all)
            empty: list[HourCheck] = []
            for stream, window in self._due_stretches(begins, warehouse):
                self._rests[stream] = self._monotonic() + PAUSE_SECONDS  # if this fails: the others are next
                try:
                    api = ApiSide.read(fetch_pages, stream, window, with_contents=False)
                except AccountError as error:
                    hint = "it is tried again later"
                    log.warning("reconcile.failed", account=stream.account_id, error=error, hint=hint)
                    continue
                checks = completeness.check(stream, window, api)
                self._gaps += _log(stream, window, checks)
                empty += [check for check in checks if not (check.most_events or check.is_gap)]
                days = window.since - DAY, window.since, window.before - HOUR
                self.compared.update((stream.account_id, time.date()) for time in days)
                del self._rests[stream]
                if stop.is_set() or self._monotonic() > give_up_at:
                    break
            else:
                self._pause()
            _log_empty(empty)
        gaps, self._gaps = self._gaps, []
        return gaps

    def _due_stretches(
        self, begins: Mapping[Stream, datetime], warehouse: WarehouseReader
    ) -> Iterator[tuple[Stream, Window]]:
        """The oldest of each stream, one stream after the other, again and again until none has any."""
        now, self._turn = self._clock(), [s for s in self._turn if s in begins]
        self._turn += sorted(begins.keys() - set(self._turn))
        left = len(self._turn)
        while left:
            stream = self._turn.pop(0)
            self._turn.append(stream)
            left -= 1
            if self._rests.get(stream, 0.0) > self._monotonic():
                continue
            window = Window(max(begins[stream], now - max(self._ages) - LOOK_BACK), now)
            checked = {hour: row["checked_at"] for hour, row in warehouse.latest_checks(stream, window).items()}
            stretch = first_stretch(due_hours(window, checked, self._ages))
            if stretch is not None:
                left = len(self._turn)
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


def _log(stream: Stream, window: Window, checks: Sequence[HourCheck]) -> list[HourCheck]:
    """Logs what was found, if there is an event or a gap, and returns the hours that have a gap."""
    gaps = [check for check in checks if check.is_gap]
    about = {"account": stream.account_id, "version": stream.api_version}
    events = sum(check.most_events for check in checks)
    since, before = window.since.isoformat(), window.before.isoformat()
    if events or gaps:
        log.info("reconcile.compared", **about, since=since, before=before, events=events, gaps=len(gaps))
    for gap in gaps:
        hint = f"cloudflare-audit reconcile --since {since} --before {before} --repair"
        log.error("reconcile.gap", **about, hour=gap.hour.isoformat(), found="; ".join(gap.problems), hint=hint)
    return gaps


def _log_empty(checks: Sequence[HourCheck]) -> None:
    """Logs the hours of which no side has an event, all in one line."""
    if checks:
        accounts = len({check.stream.account_id for check in checks})
        since = min(check.window.since for check in checks).isoformat()
        before = max(check.window.before for check in checks).isoformat()
        log.info("reconcile.empty", accounts=accounts, hours=len(checks), since=since, before=before)
