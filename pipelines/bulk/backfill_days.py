"""Backfills days of streams from the API into both stores, and compares each: one day of a stream is one unit.

A Dask worker imports this module by its name, so it cannot be the command itself, whose name is `__main__`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from pipelines.fetch.api import open_api, utc_now
from pipelines.fetch.reading import Step, StreamReading, fetch_exactly
from pipelines.host.logs import log
from pipelines.lake.key_tallies import KEYS
from pipelines.load.loader import Sidecar
from pipelines.load.spool import open_spool
from pipelines.proof.both_stores import open_copies, open_sidecars
from pipelines.proof.compare import Completeness, HourCheck
from pipelines.proof.sides import ApiSide
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import HiddenEventsError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .shared import Shared
from .units import open_pool, run_units

StreamDay = tuple[Stream, Window]


@dataclass
class Backfilled:
    """The result of a unit, or of all of them."""

    read: int = 0
    new: Counter[str] = field(default_factory=Counter)
    """By store."""
    skipped: int = 0
    """Units that were complete before."""
    gaps: list[HourCheck] = field(default_factory=list)


def backfill_days(
    days: Sequence[StreamDay], settings: Settings, shared: Shared, *, scheduler: str | None
) -> Backfilled:
    """Backfills days of streams, several side by side; the failures of streams are in `shared`."""
    total, begun = Backfilled(), time.monotonic()

    def progress() -> str:
        return f"{total.read:,} events, {total.read / (time.monotonic() - begun):,.0f} a second"

    with open_pool(scheduler, open_backfill, settings, shared, threads=shared.threads, asks_api=True) as pool:
        for done in shared.results_of(run_units(days, pool, "backfill", progress)):
            total.read += done.read
            total.new.update(done.new)
            total.skipped += done.skipped
            total.gaps += done.gaps
    return total


@contextmanager
def open_backfill(settings: Settings, shared: Shared, name: str) -> Iterator[Callable[[StreamDay], Backfilled]]:
    """Opens what one thread needs; yields the function that does a unit."""
    with ExitStack() as stack:
        spool = stack.enter_context(open_spool(settings.stores.data_dir))
        sidecars = stack.enter_context(open_sidecars(settings.stores, spool, f"backfill_{name}", clock=utc_now))
        copies = stack.enter_context(open_copies(settings.stores, must_exist=False))
        is_all = settings.is_all_asked_for
        completeness = Completeness(copies.warehouse, copies.lake, clock=utc_now, is_all_asked_for=is_all)
        fetch_pages = fetch_exactly(stack.enter_context(open_api(settings, shared.stop, utc_now, shared.budgets)))

        def backfill_day(day: StreamDay) -> Backfilled:
            if completeness.is_proven(*day, lateness=settings.sweep_window):
                return Backfilled(skipped=1)
            return _load_day(*day, spool.steps(day[0], StreamReading(fetch_pages, *day)), sidecars, completeness)

        yield lambda day: shared.ask("backfill", day[0], lambda: backfill_day(day))


def _load_day(
    stream: Stream, window: Window, steps: Iterable[Step], sidecars: dict[str, Sidecar], completeness: Completeness
) -> Backfilled:
    """Loads each step into both stores as it is read; then compares the day."""
    done, keys, hidden = Backfilled(), [EVENT_SCHEMA.empty_table().select(KEYS)], list[datetime]()
    try:
        for step in steps:
            for name, sidecar in sidecars.items():
                done.new[name] += sum(batch.events for batch in sidecar.load(step).values())
            keys += [page.keys for page in step.parts[stream].pages]
            done.read += step.events
    except HiddenEventsError as error:
        hidden = error.instants
        log.error("backfill.hidden", account=stream.account_id, version=stream.api_version, error=error)
    done.gaps = [check for check in completeness.check(stream, window, ApiSide(keys, hidden)) if check.is_gap]
    return done
