"""Deletes what is older than `TIMESCALE_RETENTION_DAYS` from the warehouse, where no policy of its server does it.

That is so on plain PostgreSQL, and on TimescaleDB under the Apache licence. A plain table loses its events some
thousand at a time, a hypertable whole chunks. The lake keeps everything. Runs beside the loop, as the owner of the
tables.

Examples:
  cloudflare-audit retention --dry-run    only says what would be deleted
  cloudflare-audit retention

Exit codes: 0 done, 1 failed, 2 wrong usage, or no retention is set, 75 the server is down.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_command
from pipelines.cli.older_events import delete_older
from pipelines.host.output import say
from pipelines.settings.settings import PostgresSettings, StoreSettings
from pipelines.warehouse.connection import as_owner, connect
from pipelines.warehouse.destination import open_warehouse


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("retention", __doc__)
    options.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    add_json_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Deletes, or says what would be deleted, and returns the exit code."""
    options = parser().parse_args(arguments)
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
            unit, count = delete_older(connection, stores.postgres_schema, oldest, dry_run=dry_run)
    result = {"before": oldest.isoformat(), unit: count, "dry_run": dry_run}
    text = f"{count:,} {unit} from before {oldest:%Y-%m-%d %H:%M} UTC {'would be' if dry_run else 'were'} deleted"
    say(json.dumps(result) if as_json else text)
    return 0


if __name__ == "__main__":
    end(main())
