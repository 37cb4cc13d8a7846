"""`python pipelines/backfill.py --since T --before T [--account A]… [--json]`: history from the API into both stores.

A day of an account at a time, several accounts side by side, within half of the token's budget. May be ended and begun
again at any time: days that were read whole and that both stores still hold are not read again. Runs beside the loop,
and never moves its cursor. Each day is compared when it is loaded; the results are in the table `audit_completeness`.
Exit codes: 0 done, 1 an account failed, 2 wrong usage, 3 a store lacks something in spite of it, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from tqdm import tqdm

from pipelines.bulk.backfill_unit import Done, open_backfill
from pipelines.bulk.pools import add_scheduler_option, open_pool
from pipelines.bulk.units import Shared, results_of
from pipelines.cli.command import run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, api_window, days_of, window_of
from pipelines.fetch.api import utc_now
from pipelines.fetch.refusals import told_refused
from pipelines.host.logs import log
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Window

LARGEST_POOL = 4
"""Accounts read side by side: the budget is 2 requests a second, whoever sends them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fills the window, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="backfill.py", description=__doc__)
    add_window_options(parser)
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    add_scheduler_option(parser)
    options = parser.parse_args(arguments)
    window = window_of(parser, options)
    work = partial(backfill, window, options.account, scheduler=options.scheduler, as_json=options.json)
    return run_window_command(work, asks_api=True)


def backfill(
    window: Window, chosen: Sequence[str] | None, settings: Settings, *, scheduler: str | None, as_json: bool
) -> int:
    """The command itself."""
    window = api_window(window, utc_now())
    streams = settings.streams_of(accounts_of(chosen, settings.account_ids))
    _tell_retention(window, settings)
    units = [(stream, day) for day in days_of(window) for stream in streams]
    shared, done = Shared(streams), Done()
    threads, begun = min(LARGEST_POOL, len(streams)), time.monotonic()
    with (
        open_pool(scheduler, open_backfill, settings, shared, threads=threads, asks_api=True) as pool,
        tqdm(total=len(units), unit=" days", desc="backfill", disable=not sys.stderr.isatty()) as bar,
    ):
        for (stream, _), result in results_of(units, pool):
            if isinstance(result, AuditLogsError):
                shared.note_failure(stream, result)
            else:
                done.add(result)
                shared.note_readable(stream)
            bar.update()
            bar.set_postfix_str(f"{done.read:,} events, {done.read / (time.monotonic() - begun):,.0f} a second")
    shared.tell_rest()
    print(json.dumps(_as_json(done, shared), default=str) if as_json else _as_text(done, len(units), shared))
    for gap in done.gaps:
        log.error("backfill.gap", account=gap.stream.account_id, hour=gap.hour.isoformat(), hint="see reconcile.py")
    return shared.exit_code or (3 if done.gaps else 0)


def _tell_retention(window: Window, settings: Settings) -> None:
    days = settings.stores.timescale.retention_days
    if days and window.since < utc_now() - timedelta(days=days):
        hint = f"TIMESCALE_RETENTION_DAYS={days}: events older than that go into the lake alone"
        log.warning("backfill.retention", hint=hint)


def _as_json(done: Done, shared: Shared) -> dict[str, object]:
    return {
        "read": done.read,
        "new": dict(done.new),
        "days_skipped": done.skipped,
        "gaps": [check.as_row() for check in done.gaps],
        "failed_accounts": {stream.name: str(error) for stream, error in shared.failures.items()},
        "refused_versions": {stream.name: str(error) for stream, error in shared.refused_versions.items()},
    }


def _as_text(done: Done, units: int, shared: Shared) -> str:
    new = ", ".join(f"{name} {count:,} new" for name, count in sorted(done.new.items()))
    skipped = f"; {done.skipped:,} of {units:,} days were there" if done.skipped else ""
    refused = told_refused(shared.refused_versions)
    failed = [
        f"failed: {stream.account_id} ({stream.api_version}): {error}" for stream, error in shared.failures.items()
    ]
    return "\n".join([f"{done.read:,} events read: {new or 'nothing to do'}{skipped}{refused}", *failed])


if __name__ == "__main__":
    end(main())
