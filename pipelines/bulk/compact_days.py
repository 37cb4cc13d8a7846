"""Makes the copies of days in the lake: one day of an account is one unit, and one whose copy is whole costs a look."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipelines.fetch.api import utc_now
from pipelines.host.logs import log
from pipelines.lake.day_copies import AccountDay
from pipelines.lake.reads import LakeReader, read_lake
from pipelines.proof.compaction import AccountListing, Compacted, Compaction, Outcome, closed_before
from pipelines.settings.settings import Settings
from pipelines.warehouse.destination import open_warehouse
from pipelines.warehouse.reads import read_warehouse
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Window

from .shared import Shared
from .units import open_pool, run_units

THREADS = min(4, os.cpu_count() or 1)
"""Each has a row group of its day in memory."""


@dataclass
class CompactedDays:
    """The result of all units."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    events: int = 0
    """The events in the copies that were made."""
    left_out: list[Compacted] = field(default_factory=list)
    broken: list[tuple[AccountDay, AuditLogsError]] = field(default_factory=list)
    """The days with an object that cannot be read."""

    def add(self, done: Compacted) -> None:
        """Adds the result of a unit."""
        self.counts[done.outcome] += 1
        self.events += done.events if done.outcome is Outcome.MADE else 0
        if done.outcome is Outcome.LEFT_OUT:
            self.left_out.append(done)

    def as_json(self) -> dict[str, Any]:
        """Returns the command's result."""
        left_out = [((done.account_id, done.day), done.reason) for done in sorted(self.left_out)]
        broken = [(day, str(error)) for day, error in sorted(self.broken, key=lambda item: item[0])]
        return {
            **{outcome.value: self.counts[outcome] for outcome in (Outcome.MADE, Outcome.WHOLE, Outcome.REMOVED)},
            "events": self.events,
            "left_out": [_day_as_json(*item) for item in left_out],
            "broken": [_day_as_json(*item) for item in broken],
        }


def _day_as_json(day: AccountDay, reason: str) -> dict[str, str]:
    return {"account_id": day[0], "day": day[1].isoformat(), "reason": reason}


def days_with_events(lake: LakeReader, account_ids: Sequence[str], window: Window) -> list[AccountDay]:
    """Returns the days that a window touches and that have objects or a copy: one listing an account."""
    first, last = window.since.date(), window.before.date()
    days = [day for account_id in account_ids for day in AccountListing.of(lake, account_id).days]
    is_open_end = window.before.time().isoformat() == "00:00:00"
    return [day for day in days if first <= day[1] and (day[1] < last or (day[1] == last and not is_open_end))]


def compact_days(days: Sequence[AccountDay], settings: Settings, *, with_warehouse: bool) -> CompactedDays:
    """Makes the copies that are not whole, several side by side; raises the error that all days would meet."""
    total, open_unit = CompactedDays(), partial(_open_compaction, with_warehouse=with_warehouse)

    def progress() -> str:
        return f"{total.counts[Outcome.MADE]:,} copies made of {total.events:,} events"

    with open_pool(None, open_unit, settings, Shared(), threads=THREADS, asks_api=False) as pool:
        for day, result in run_units(days, pool, "compacted", progress):
            if isinstance(result, AuditLogsError):
                log.error("compact.failed", account=day[0], day=day[1].isoformat(), error=result)
                total.broken.append((day, result))
            else:
                total.add(result)
    return total


@contextmanager
def _open_compaction(
    settings: Settings, _: Shared, __: str, *, with_warehouse: bool
) -> Iterator[Callable[[AccountDay], Compacted]]:
    """Opens what one thread needs; yields the function that does a unit."""
    with ExitStack() as stack:
        warehouse = None
        if with_warehouse:
            store, client = stack.enter_context(open_warehouse(settings.stores, takes_lock=False))
            warehouse = stack.enter_context(read_warehouse(store, client))
        lake = stack.enter_context(read_lake())
        compaction = Compaction(lake, warehouse, closed_before(settings, utc_now()))
        yield lambda day: compaction.compact(*day)
