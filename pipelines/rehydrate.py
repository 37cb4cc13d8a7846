"""Brings a window of the lake back into the warehouse, each event once however often it runs.

The events go into the table `audit_logs_rehydrated`; the view `audit_logs_all` has both tables. `--drop` takes them out
again. A day of an account is one unit. May be ended and run again at any time, and runs beside the loop.

Examples:
  cloudflare-audit rehydrate --since 2025-03-01 --before 2025-04-01
  cloudflare-audit rehydrate --since 2025-03-01 --before 2025-04-01 --drop

Exit codes: 0 done, 1 an object is broken, 2 wrong usage, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from pipelines.bulk.rehydrate_days import TABLE, drop_window, rehydrate_days
from pipelines.bulk.units import add_scheduler_option
from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, days_of, past_window, window_of
from pipelines.fetch.api import utc_now
from pipelines.host.output import say
from pipelines.lake.ask.places import open_place
from pipelines.lake.reads import read_lake
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE
from sources.cloudflare_audit_logs.streams import Window


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("rehydrate", __doc__)
    add_window_options(options)
    instead = options.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="only say what would be read: objects, events, bytes")
    instead.add_argument("--drop", action="store_true", help="take the window out of audit_logs_rehydrated again")
    add_json_option(options)
    add_scheduler_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehydrates the window, or says what that would be, or drops it; returns the exit code."""
    options = parser().parse_args(arguments)
    work = _drop if options.drop else _rehydrate
    return run_window_command(partial(work, window_of(parser(), options), options), asks_api=False)


def _drop(window: Window, options: argparse.Namespace, settings: Settings) -> int:
    dropped = drop_window(accounts_of(options.account, settings.account_ids, lambda _: True), window, settings)
    say(json.dumps({"dropped": dropped}) if options.json else f"{dropped:,} events taken out of {TABLE}")
    return 0


def _rehydrate(window: Window, options: argparse.Namespace, settings: Settings) -> int:
    window = past_window(window, utc_now())
    with read_lake() as lake:
        accounts = accounts_of(options.account, settings.account_ids, lake.has_account)
    place = open_place()
    with place.translated_errors():
        dates = {account_id: place.dates(EVENTS_TABLE, account_id) for account_id in accounts}
    all_days = [(account_id, day) for account_id in accounts for day in days_of(window)]
    days = [(account_id, day) for account_id, day in all_days if f"{day.since:%Y-%m-%d}" in dates[account_id]]
    done = rehydrate_days(days, settings, is_dry_run=options.dry_run, scheduler=options.scheduler)
    read = "would be read" if options.dry_run else f"were read into {TABLE}"
    broken = f"; {len(done.broken):,} objects are broken, see the log" if done.broken else ""
    broken += f"; failed: {', '.join(done.failed)}" if done.failed else ""
    text = f"{done.events:,} events of {done.objects:,} objects ({done.bytes:,} bytes) {read}{broken}"
    say(json.dumps({**asdict(done), "dry_run": options.dry_run}) if options.json else text)
    return 1 if done.broken or done.failed else 0


if __name__ == "__main__":
    end(main())
