"""Which days get a copy in the lake: closed ones, as the comparisons found them complete. Makes it, if it is not whole.

A copy is exact whatever is compared (`lake/day_copies.py`). A day waits for its comparison so that its copy is made
once, and stands still. A day is closed when no sweep reads it any more.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pipelines.host.logs import log
from pipelines.lake.day_copies import AccountDay, by_day, day_of, find_copy, whole_days, write_copy
from pipelines.lake.objects import Listed
from pipelines.lake.partitions import DAY, account_folder, copies_folder, copy_path, day_folder
from pipelines.lake.reads import LakeReader
from pipelines.settings.settings import Settings
from pipelines.warehouse.reads import WarehouseReader
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window


class Outcome(StrEnum):
    """The result of looking at a day."""

    WHOLE = "whole"
    """Its copy has all events of its hours, or it has neither: nothing was to be done."""
    MADE = "made"
    REMOVED = "removed"
    """Its hours are gone, and so is its copy."""
    LEFT_OUT = "left_out"


class Compacted(NamedTuple):
    """A day that was looked at."""

    account_id: str
    day: date
    outcome: Outcome
    events: int = 0
    """The number of events in the copy."""
    reason: str = ""
    """Why it has none."""


def closed_before(settings: Settings, now: datetime) -> date:
    """The first day that a sweep may still read."""
    return (now - settings.sweep_window - timedelta(seconds=settings.sweep_interval_seconds)).astimezone(UTC).date()


class AccountListing(NamedTuple):
    """The objects of an account's hours, and its copies, as they were listed."""

    hours: Mapping[str, Listed]
    copies: Mapping[str, Listed]

    @classmethod
    def of(cls, lake: LakeReader, account_id: str) -> "AccountListing":
        """Lists them: a request for 1,000 objects."""
        with lake.translated_errors():
            objects = lake.objects
            return cls(objects.listing(account_folder(account_id)), objects.listing(copies_folder(account_id)))

    @property
    def days(self) -> list[AccountDay]:
        """The days that have objects, or a copy."""
        return sorted({*by_day(self.hours), *filter(None, map(day_of, self.copies))})

    def state_of(self, days: Collection[AccountDay]) -> tuple[Any, ...]:
        """Tells what was listed of some days from what is listed of them when it has changed."""
        hours = by_day(self.hours)
        return tuple((day, tuple(hours.get(day, {}).items()), self.copies.get(copy_path(*day))) for day in days)


@dataclass
class Compaction:
    """Looks at one day at a time, by a connection of its own. Used by one thread."""

    lake: LakeReader
    warehouse: WarehouseReader | None
    """None: a day is taken as it is, compared or not."""
    closed_before: date

    def compact(self, account_id: str, day: date) -> Compacted:
        """Makes the day's copy if it is not whole; raises as `write_copy`, and TemporaryError if a store is down."""
        done = self._compact(account_id, day)
        if done.outcome in {Outcome.MADE, Outcome.REMOVED}:
            log.info(f"compact.{done.outcome}", account=account_id, day=day.isoformat(), events=done.events)
        return done

    def _compact(self, account_id: str, day: date) -> Compacted:
        path, midnight = copy_path(account_id, day), datetime(day.year, day.month, day.day, tzinfo=UTC)
        with self.lake.translated_errors():
            hours = self.lake.objects.listing(day_folder(account_id, midnight))
            found = find_copy(self.lake.objects, path)
            if found is not None and whole_days({path: found}, hours):
                return Compacted(account_id, day, Outcome.WHOLE, found.tally.events)
            if not hours and not self.lake.objects.is_there(path.rpartition("/")[0]):
                return Compacted(account_id, day, Outcome.WHOLE)
        begins = {midnight.replace(hour=int(hour)) for hour in by_day(hours).get((account_id, day), {})}
        if reason := self._unfit(account_id, Window(midnight, midnight + DAY), begins):
            return Compacted(account_id, day, Outcome.LEFT_OUT, reason=reason)
        with self.lake.translated_errors():
            made = write_copy(self.lake.objects, account_id, day)
        return Compacted(account_id, day, Outcome.MADE if made else Outcome.REMOVED, made.tally.events if made else 0)

    def _unfit(self, account_id: str, window: Window, hours: Collection[datetime]) -> str | None:
        """Why the day gets no copy; None if it may have one."""
        if window.since.date() >= self.closed_before:
            return "it is not closed yet: a sweep may still add to it"
        if self.warehouse is None or not hours:
            return None
        compared = False
        for version in API_VERSIONS:
            latest = self.warehouse.latest_checks(Stream(account_id, version), window)
            if gaps := sum(check["status"] != "complete" for check in latest.values()):
                return f"{gaps} of its hours had a gap when {version} was compared last"
            if latest and (missing := len(hours - latest.keys())):
                return f"{missing} of its hours were not compared in {version}"
            compared = compared or bool(latest)
        return None if compared else "it was not compared"
