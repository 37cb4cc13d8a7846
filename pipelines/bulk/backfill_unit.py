"""One unit of a backfill: a day of a stream, from the API into both stores, and compared. Knows nothing of the others.

A module of its own because a Dask worker imports it by this name; what runs as `__main__` has another one there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from pipelines.fetch.api import open_api, sleep_until, utc_now
from pipelines.fetch.reading import Step, StreamReading, fetch_exactly
from pipelines.host.logs import log
from pipelines.load.loader import Sidecar
from pipelines.load.spool import open_spool
from pipelines.proof.both_stores import open_copies, open_sidecars
from pipelines.proof.compare import KEYS, ApiSide, Completeness, HourCheck
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AccountError, HiddenEventsError, RateLimitedError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .units import Shared

Unit = tuple[Stream, Window]


@dataclass
class Done:
    """What became of a unit, or of all of them."""

    read: int = 0
    new: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    """Units that were there."""
    gaps: list[HourCheck] = field(default_factory=list)

    def add(self, other: "Done") -> None:
        """Counts the other in."""
        self.read += other.read
        self.new.update(other.new)
        self.skipped += other.skipped
        self.gaps += other.gaps


@contextmanager
def open_backfill(settings: Settings, shared: Shared, name: str) -> Iterator[Callable[[Unit], Done]]:
    """What one thread needs, and how it does a unit."""
    with ExitStack() as stack:
        spool = stack.enter_context(open_spool(settings.stores.data_dir))
        sidecars = stack.enter_context(open_sidecars(settings.stores, spool, f"backfill_{name}", clock=utc_now))
        copies = stack.enter_context(open_copies(settings.stores, must_exist=False))
        completeness = Completeness(
            copies.warehouse, copies.lake, clock=utc_now, is_all_asked_for=settings.is_all_asked_for
        )
        fetch_pages = fetch_exactly(stack.enter_context(open_api(settings, shared.stop, utc_now, shared.budgets)))

        def fill(unit: Unit) -> Done:
            shared.give_up(unit[0])
            if completeness.is_proven(*unit, lateness=settings.sweep_window):
                return Done(skipped=1)
            while True:
                try:
                    steps = spool.steps(unit[0], StreamReading(fetch_pages, *unit))
                    return _fill(unit, steps, sidecars, completeness)
                except RateLimitedError as error:
                    log.warning("backfill.rate_limited", error=error)
                    sleep_until(error.until, shared.stop)
                except AccountError as error:
                    shared.given_up.setdefault(unit[0], error)
                    raise

        yield fill


def _fill(unit: Unit, steps: Iterable[Step], sidecars: dict[str, Sidecar], completeness: Completeness) -> Done:
    """Loads what is read of a window, a step after the other, into both stores; then compares it."""
    stream, window = unit
    done, keys, hidden = Done(), [EVENT_SCHEMA.empty_table().select(KEYS)], list[datetime]()
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
