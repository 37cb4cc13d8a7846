"""`python pipelines/backfill.py --since T --before T [--account A]… [--json]`: history from the API into both stores.

A day of an account at a time, several accounts side by side, within half of the token's budget. May be ended and begun
again at any time: days that were read whole and that both stores still hold are not read again. Runs beside the loop,
and never moves its cursor. Each day is compared when it is loaded; the results are in the table `audit_completeness`.
Exit codes: 0 done, 1 an account failed, 2 wrong usage, 3 a store lacks something in spite of it, 75 try again later.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from tqdm import tqdm

from pipelines.api import client_for, page_fetcher, sleep_until, utc_now
from pipelines.command import run_window_command
from pipelines.completeness import KEYS, ApiSide, Completeness, HourCheck
from pipelines.copies import open_copies, open_sidecars
from pipelines.logs import log
from pipelines.reading import FetchPages, Reading, fetch_exactly
from pipelines.settings import Settings
from pipelines.sidecar import Sidecar
from pipelines.units import Shared, run_units
from pipelines.windows import accounts_of, add_window_options, api_window, days_of, window_of
from sources.cloudflare_audit_logs.errors import AuditLogsError, RateLimitedError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

LARGEST_POOL = 4
"""Accounts read side by side: the budget is 2 requests a second, whoever sends them."""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Fills the window, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="backfill.py", description=__doc__)
    add_window_options(parser)
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args(arguments)
    window = window_of(parser, options)
    work = partial(backfill, window, options.account, as_json=options.json)
    return run_window_command(work, asks_api=True)


def backfill(window: Window, chosen: Sequence[str] | None, settings: Settings, *, as_json: bool) -> int:
    """The command itself."""
    window = api_window(window, utc_now())
    streams = settings.streams_of(accounts_of(chosen, settings.account_ids))
    _tell_retention(window, settings)
    units = [(stream, day) for day in days_of(window) for stream in streams]
    shared, done = Shared(), Done()
    open_worker = partial(_open_worker, settings, shared)
    begun = time.monotonic()
    with tqdm(total=len(units), unit=" days", desc="backfill", disable=not sys.stderr.isatty()) as bar:
        for (stream, _), result in run_units(
            units, open_worker, workers=min(LARGEST_POOL, len(streams)), stop=shared.stop
        ):
            if isinstance(result, AuditLogsError):
                shared.note_failure(stream, result)
            else:
                done.add(result)
            bar.update()
            bar.set_postfix_str(f"{done.read:,} events, {done.read / (time.monotonic() - begun):,.0f} a second")
    failures = shared.failures
    print(json.dumps(_as_json(done, failures), default=str) if as_json else _as_text(done, len(units), failures))
    for gap in done.gaps:
        log.error("backfill.gap", account=gap.stream.account_id, hour=gap.hour.isoformat(), hint="see reconcile.py")
    return shared.exit_code or (3 if done.gaps else 0)


def _tell_retention(window: Window, settings: Settings) -> None:
    days = settings.stores.timescale.retention_days
    if days and window.since < utc_now() - timedelta(days=days):
        hint = f"TIMESCALE_RETENTION_DAYS={days}: events older than that go into the lake alone"
        log.warning("backfill.retention", hint=hint)


@contextmanager
def _open_worker(settings: Settings, shared: Shared, number: int) -> Iterator[Callable[[Unit], Done]]:
    """What one thread needs, and how it does a unit."""
    with ExitStack() as stack:
        client = stack.enter_context(client_for(settings, shared.stop, utc_now, shared.budget))
        sidecars = stack.enter_context(open_sidecars(settings.stores, f"backfill_{number}", clock=utc_now))
        copies = stack.enter_context(open_copies(settings.stores, must_exist=False))
        completeness = Completeness(
            copies.warehouse, copies.lake, clock=utc_now, is_all_asked_for=not settings.hide_user_logs
        )
        fetch_pages = fetch_exactly(page_fetcher(client, settings, shared.stop, utc_now))

        def fill(unit: Unit) -> Done:
            shared.give_up(unit[0])
            if completeness.is_proven(*unit, lateness=settings.sweep_window):
                return Done(skipped=1)
            while True:
                try:
                    return _fill(*unit, fetch_pages, sidecars, completeness)
                except RateLimitedError as error:
                    log.warning("backfill.rate_limited", error=error)
                    sleep_until(error.until, shared.stop)

        yield fill


def _fill(
    stream: Stream, window: Window, fetch_pages: FetchPages, sidecars: dict[str, Sidecar], completeness: Completeness
) -> Done:
    """Reads a window and loads it, a step after the other, into both stores; then compares it."""
    done, keys = Done(), [EVENT_SCHEMA.empty_table().select(KEYS)]
    reading = Reading(fetch_pages, {stream: window})
    for step in reading.steps():
        for name, sidecar in sidecars.items():
            done.new[name] += sum(batch.events for batch in sidecar.load(step).values())
        keys += [page.events.select(KEYS) for part in step.parts.values() for page in part.pages]
        done.read += step.events
    if reading.failures:
        raise reading.failures[stream]
    done.gaps = [check for check in completeness.check(stream, window, ApiSide(keys)) if check.is_gap]
    return done


def _as_json(done: Done, failures: dict[Stream, AuditLogsError]) -> dict[str, object]:
    return {
        "read": done.read,
        "new": dict(done.new),
        "days_skipped": done.skipped,
        "gaps": [check.as_row() for check in done.gaps],
        "failed_accounts": {stream.name: str(error) for stream, error in failures.items()},
    }


def _as_text(done: Done, units: int, failures: dict[Stream, AuditLogsError]) -> str:
    new = ", ".join(f"{name} {count:,} new" for name, count in sorted(done.new.items()))
    skipped = f"; {done.skipped:,} of {units:,} days were there" if done.skipped else ""
    failed = f"; {len(failures)} accounts failed, see the log" if failures else ""
    return f"{done.read:,} events read: {new or 'nothing to do'}{skipped}{failed}"


if __name__ == "__main__":
    sys.exit(main())
