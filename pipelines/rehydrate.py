"""`python pipelines/rehydrate.py --since T --before T [--account A]… [--dry-run | --drop] [--json]`.

Brings a window of the lake back into the warehouse, table `audit_logs_rehydrated`, each event once however often it
runs; the view `audit_logs_all` has both tables. `--drop` takes it out again. DuckDB reads the objects, whose paths are
reckoned from the window; a day of an account is one unit. May be ended and run again at any time, and runs beside the
loop. Exit codes: 0 done, 1 an object is broken, 2 wrong usage, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from adbc_driver_manager.dbapi import Connection
from tqdm import tqdm

from pipelines.bulk.pools import add_scheduler_option, open_pool
from pipelines.bulk.rehydrate_unit import TABLE, Brought, Day, open_rehydration
from pipelines.bulk.units import BrokenUnitError, Shared, results_of
from pipelines.cli.command import run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, days_of, past_window, window_of
from pipelines.fetch.api import utc_now
from pipelines.host.logs import log
from pipelines.lake.reads import read_lake
from pipelines.settings.settings import Settings
from pipelines.warehouse.connection import as_owner, connect, transaction_on
from pipelines.warehouse.destination import open_warehouse
from pipelines.warehouse.statements import sections_of
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Window

WORKERS = min(4, os.cpu_count() or 1)
"""Days brought side by side, each by a connection of its own: PostgreSQL does most of the work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Brings the window back, or says what that would be, or takes it out; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rehydrate.py", description=__doc__)
    add_window_options(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="only say what would be read: objects, events, bytes")
    what.add_argument("--drop", action="store_true", help="take the window out of audit_logs_rehydrated again")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    add_scheduler_option(parser)
    options = parser.parse_args(arguments)
    window = window_of(parser, options)
    work = drop if options.drop else partial(rehydrate, is_dry_run=options.dry_run, scheduler=options.scheduler)
    return run_window_command(partial(work, window, options.account, as_json=options.json), asks_api=False)


def rehydrate(
    window: Window,
    chosen: Sequence[str] | None,
    settings: Settings,
    *,
    is_dry_run: bool,
    scheduler: str | None,
    as_json: bool,
) -> int:
    """The command itself."""
    window = past_window(window, utc_now())
    with read_lake() as lake:
        accounts = accounts_of(chosen, settings.account_ids, lake.has_account)
    with open_warehouse(settings.stores, takes_lock=False):
        pass  # makes the tables, before there are several who would
    days = [(account_id, day) for account_id in accounts for day in days_of(window)]
    total, begun = Brought(), time.monotonic()
    work, what = partial(open_rehydration, is_dry_run=is_dry_run), "counted" if is_dry_run else "rehydrated"
    with (
        open_pool(scheduler, work, settings, Shared(), threads=WORKERS, asks_api=False) as pool,
        tqdm(total=len(days), unit=" days", desc=what, disable=not sys.stderr.isatty()) as bar,
    ):
        for day, result in results_of(days, pool):
            total.add(_told(day, result))
            bar.update()
            rate = total.events / (time.monotonic() - begun)
            bar.set_postfix_str(f"{total.events:,} events, {rate:,.0f} a second")
    _tell(total, is_dry_run=is_dry_run, as_json=as_json)
    return 1 if total.broken or total.failed else 0


def _told(day: Day, result: Brought | AuditLogsError) -> Brought:
    """What became of a day. Raises the error of one that the others would meet as well."""
    if isinstance(result, BrokenUnitError):
        account_id, window = day
        log.error("rehydrate.failed", account=account_id, day=f"{window.since:%Y-%m-%d}", error=result)
        return Brought(failed=[f"{account_id} {window.since:%Y-%m-%d}"])
    if isinstance(result, AuditLogsError):
        raise result
    return result


def drop(window: Window, chosen: Sequence[str] | None, settings: Settings, *, as_json: bool) -> int:
    """`--drop`: some thousand events at a time, as the owner of the tables."""
    accounts = accounts_of(chosen, settings.account_ids, lambda _: True)
    sections = sections_of("rehydrated.sql", schema=settings.stores.postgres_schema)
    dropped = 0
    with open_warehouse(settings.stores, takes_lock=False) as (warehouse, client), warehouse.translated_errors():
        owner = as_owner(client.config.credentials, settings.stores.postgres_owner)
        with connect(owner) as connection:
            for account_id in accounts:
                while count := _drop_some(connection, sections["delete some events"][0], account_id, window):
                    dropped += count
    print(json.dumps({"dropped": dropped}) if as_json else f"{dropped:,} events taken out of {TABLE}")
    return 0


def _drop_some(connection: Connection, statement: str, account_id: str, window: Window) -> int:
    with transaction_on(connection) as cursor:
        cursor.execute(statement, (account_id, window.since, window.before))
        (count,) = cursor.fetch_arrow_table()["events"].to_pylist()
        return int(count)


def _tell(total: Brought, *, is_dry_run: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(total), "dry_run": is_dry_run}))
        return
    what = "would be read" if is_dry_run else f"were read into {TABLE}"
    broken = f"; {len(total.broken):,} objects are broken, see the log" if total.broken else ""
    broken += f"; failed: {', '.join(total.failed)}" if total.failed else ""
    print(f"{total.events:,} events of {total.objects:,} objects ({total.bytes:,} bytes) {what}{broken}")


if __name__ == "__main__":
    end(main())
