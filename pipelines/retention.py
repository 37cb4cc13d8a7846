"""`python pipelines/retention.py [--dry-run] [--json]`: deletes what is older than `TIMESCALE_RETENTION_DAYS`.

For a warehouse that does it by no policy of its own: plain PostgreSQL, and TimescaleDB under the Apache licence. A
plain table loses its events some thousand at a time, a hypertable whole chunks. The lake keeps everything. Runs beside
the loop, as the owner of the tables. Exit codes: 0 done, 1 failed, 2 no retention is set, 75 the server is down.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from adbc_driver_manager.dbapi import Connection
from tqdm import tqdm

from pipelines.cli.command import run_command
from pipelines.host.output import say
from pipelines.settings.settings import PostgresSettings, StoreSettings
from pipelines.warehouse.connection import as_owner, connect, transaction_on, value_of
from pipelines.warehouse.destination import open_warehouse
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.upkeep import find, look_where_timescale_is


def main(arguments: Sequence[str] | None = None) -> int:
    """Deletes, or says what would be deleted, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="retention.py", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args(arguments)
    return run_command(partial(delete_old, dry_run=options.dry_run, as_json=options.json))


def delete_old(stores: StoreSettings, _: PostgresSettings, *, dry_run: bool, as_json: bool) -> int:
    """The command itself."""
    with open_warehouse(stores, takes_lock=False) as (warehouse, client), warehouse.translated_errors():
        oldest = warehouse.oldest_kept
        if oldest is None:
            message = "TIMESCALE_RETENTION_DAYS is 0: nothing is to be deleted; set it to a number of days"
            print(message, file=sys.stderr)
            return 2
        with connect(as_owner(client.config.credentials, stores.postgres_owner)) as connection:
            unit, count = _delete(connection, stores.postgres_schema, oldest, dry_run=dry_run)
    result = {"before": oldest.isoformat(), unit: count, "dry_run": dry_run}
    text = f"{count:,} {unit} from before {oldest:%Y-%m-%d %H:%M} UTC {'would be' if dry_run else 'were'} deleted"
    say(json.dumps(result) if as_json else text)
    return 0


def _delete(connection: Connection, schema: str, oldest: datetime, *, dry_run: bool) -> tuple[str, int]:
    """Returns the unit, and how many of it were deleted, or would be."""
    sections = sections_of("retention.sql", schema=schema, oldest=oldest.isoformat())
    found = find(connection, schema)
    unit = "events" if found.chunk_days is None else "chunks"

    def execute(section: str) -> int:
        with transaction_on(connection) as cursor:
            look_where_timescale_is(cursor, found)
            return int(value_of(cursor, *sections[section]))

    if dry_run or unit == "chunks":
        return unit, execute(f"count {unit}" if dry_run else "drop chunks")
    with tqdm(unit=" events", desc="deleted", disable=not sys.stderr.isatty()) as bar:
        deleted = 0
        while count := execute("delete some events"):
            deleted += count
            bar.update(count)
    return unit, deleted


if __name__ == "__main__":
    end(main())
