"""Brings history from the API into both stores.

A day of an account at a time, within half of the token's budget. May be ended and begun again at any time: days that
were read whole and that both stores still hold are not read again. Runs beside the loop, and never moves its cursor.
Each day is compared when it is loaded; the results are in the table `audit_completeness`.

Examples:
  cloudflare-audit backfill --since 2026-01-01 --before 2026-11-01
  cloudflare-audit backfill --since 90d --account 023e105f4ecef8ad9ca31a8372d0c353

Exit codes: 0 done, 1 an account failed, 2 wrong usage, 3 a store lacks something in spite of it, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from pipelines.bulk.backfill_days import Backfilled, backfill_days
from pipelines.bulk.shared import Shared
from pipelines.bulk.units import add_scheduler_option
from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, api_window, days_of, window_of
from pipelines.fetch.api import utc_now
from pipelines.fetch.refusals import refused_in_words
from pipelines.host.logs import log
from pipelines.host.output import say
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.streams import Window


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("backfill", __doc__)
    add_window_options(options)
    add_json_option(options)
    add_scheduler_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Backfills the window, and returns the exit code."""
    options = parser().parse_args(arguments)
    return run_window_command(partial(_backfill, window_of(parser(), options), options), asks_api=True)


def _backfill(window: Window, options: argparse.Namespace, settings: Settings) -> int:
    window = api_window(window, utc_now())
    shared = Shared(settings.streams_of(accounts_of(options.account, settings.account_ids)))
    kept_days = settings.stores.timescale.retention_days
    if kept_days and window.since < utc_now() - timedelta(days=kept_days):
        only = f"TIMESCALE_RETENTION_DAYS={kept_days}: events older than that go into the lake alone"
        log.warning("backfill.shortened_by_retention", hint=only)
    days = [(stream, day) for day in days_of(window) for stream in shared.streams]
    done = backfill_days(days, settings, shared, scheduler=options.scheduler)
    for gap in done.gaps:
        log.error("backfill.gap", **gap.about, hint="see cloudflare-audit reconcile")
    say(_as_json(done, shared) if options.json else _as_text(done, len(days), shared))
    return shared.exit_code or (3 if done.gaps else 0)


def _as_json(done: Backfilled, shared: Shared) -> str:
    gaps = [check.as_row() for check in done.gaps]
    result = {"read": done.read, "new": dict(done.new), "days_skipped": done.skipped, "gaps": gaps}
    return json.dumps(result | shared.as_json(), default=str)


def _as_text(done: Backfilled, days: int, shared: Shared) -> str:
    new = ", ".join(f"{name} {count:,} new" for name, count in sorted(done.new.items())) or "nothing to do"
    new += f"; {done.skipped:,} of {days:,} days were there" if done.skipped else ""
    lines = [f"{done.read:,} events read: {new}{refused_in_words(shared.refused_versions)}"]
    lines += [f"failed: {s.account_id} ({s.api_version}): {error}" for s, error in shared.failing.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    end(main())
