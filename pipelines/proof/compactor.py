"""Beside the loop: makes the copies of days that were compared complete, and makes those anew that are not whole.

Each comparison says which days it looked at: these are looked at next, so the cost follows the events. What changes a
closed day without a comparison of this process (a backfill or a repair elsewhere, a kill between the comparison and
the copy) is found by a slow look at all days of each account. Until then, the day is read by its hours.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pipelines.fetch.api import Clock
from pipelines.host.aside import words_of
from pipelines.host.logs import log
from pipelines.lake.day_copies import AccountDay
from pipelines.lake.reads import read_lake
from pipelines.load.store import client_of
from pipelines.settings.settings import Settings
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.reads import read_warehouse
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

from .compaction import AccountListing, Compaction, closed_before
from .reconciler import DEADLINE_SECONDS, LONGEST_SECONDS, PAUSE_SECONDS, SHARE_OF_INTERVAL, Reconciler

FIRST_LOOK_SECONDS = 3_600
"""After the start, so that `--once` on a timer never looks through the history."""

LOOK_SECONDS = 86_400
"""From one slow look at an account to the next: a request for 1,000 of its objects, and one for the footer of each copy
of a month in which anything has changed."""


class Compactor:
    """Makes what is due, as a task of the loop's background: it neither holds up nor ends the loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        reconciler: Reconciler,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """It follows the comparisons of the reconciler, whose turn comes before its own."""
        self._settings, self._clock, self._reconciler, self._monotonic = settings, clock, reconciler, monotonic
        self._rests_until = 0.0
        self._next_look = monotonic() + FIRST_LOOK_SECONDS
        self._unlooked: list[str] = []
        """The accounts that this look has not come to yet."""
        self._waiting: dict[AccountDay, None] = {}
        """The days that the look has found, the next one first."""
        self._seen: dict[tuple[str, str], int] = {}
        """By account and month, a hash of what was listed of its closed days when they were found last."""
        self.deadline_seconds = DEADLINE_SECONDS

    @property
    def is_due(self) -> bool:
        """True if there may be a copy to make: also if a comparison comes first."""
        if self._monotonic() < self._rests_until:
            return False
        is_look = bool(self._unlooked or self._waiting) or self._monotonic() >= self._next_look
        return is_look or self._reconciler.is_due or bool(self._compared)

    def note(self, ended: "Future[Any]") -> None:
        """Logs why it failed."""
        if error := ended.exception():
            self._rests_until = self._monotonic() + PAUSE_SECONDS
            log.warning("compact.failed", error=words_of(error), hint="it is tried again later")

    def work(self, begins: Mapping[Stream, datetime], stop: threading.Event) -> None:
        """Makes copies for a while: of the days that were compared, then of those that a look has found."""
        if self._monotonic() >= self._next_look:
            self._next_look = self._monotonic() + LOOK_SECONDS
            self._unlooked = sorted({stream.account_id for stream in begins})
        if not (self._compared or self._unlooked or self._waiting):
            return
        patience = min(SHARE_OF_INTERVAL * self._settings.poll_interval_seconds, LONGEST_SECONDS)
        give_up_at = self._monotonic() + patience
        with self._opened() as compaction:
            for account_id, day in self._due(compaction):
                try:
                    compaction.compact(account_id, day)
                except TemporaryError:
                    raise
                except AuditLogsError as error:
                    hint = "it is tried again when the day is compared or looked at next"
                    log.warning("compact.failed", account=account_id, day=day.isoformat(), error=error, hint=hint)
                self._reconciler.compared.discard((account_id, day))
                self._waiting.pop((account_id, day), None)
                if stop.is_set() or self._monotonic() > give_up_at:
                    return

    @property
    def _compared(self) -> list[AccountDay]:
        """The days that were compared, and are closed."""
        closed = closed_before(self._settings, self._clock())
        return sorted(day for day in self._reconciler.compared.copy() if day[1] < closed)

    @contextmanager
    def _opened(self) -> Iterator[Compaction]:
        store = Warehouse.of(self._settings.stores, clock=self._clock)
        with read_warehouse(store, client_of(store)) as warehouse, read_lake() as lake:
            yield Compaction(lake, warehouse, closed_before(self._settings, self._clock()))

    def _due(self, compaction: Compaction) -> Iterator[AccountDay]:
        yield from self._compared
        while True:
            yield from list(self._waiting)
            if not self._unlooked:
                return
            account_id = self._unlooked[0]
            self._waiting.update(dict.fromkeys(self._changed(compaction, account_id)))
            self._unlooked.pop(0)

    def _changed(self, compaction: Compaction, account_id: str) -> Iterator[AccountDay]:
        """The closed days of the months of an account in which anything has changed since they were found last."""
        listing = AccountListing.of(compaction.lake, account_id)
        months: dict[str, list[AccountDay]] = {}
        for day in listing.days:
            if day[1] < compaction.closed_before:
                months.setdefault(f"{day[1]:%Y-%m}", []).append(day)
        for month, days in months.items():
            found = hash(listing.state_of(days))
            if self._seen.get((account_id, month)) != found:
                self._seen[account_id, month] = found
                yield from days
