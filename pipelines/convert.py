"""Takes the steps after a load that the loop leaves to you, because of a large table's size.

Indexes a table that has grown, and makes a hypertable of it where the server has TimescaleDB: in one transaction, so
it is done or nothing is changed. Readers wait meanwhile, and it is the one writer: the loop goes on loading the lake,
and catches up the warehouse by itself.

Examples:
  cloudflare-audit convert

Exit codes: 0 done, 1 a step was not done, 2 wrong usage or settings, 75 stop the loop first, or no server.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import sys
import time
from collections.abc import Sequence

from pipelines.cli.arguments import command_parser
from pipelines.cli.command import run_command
from pipelines.host.output import say
from pipelines.settings.settings import PostgresSettings, StoreSettings
from pipelines.warehouse.connection import transaction, value_of
from pipelines.warehouse.destination import open_warehouse

EVENTS_PER_SECOND = 20_000
"""Half of what was measured on two cores: docs/warehouse.md."""


def parser() -> argparse.ArgumentParser:
    """Returns the command's options: none."""
    return command_parser("convert", __doc__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes all steps that are due, however long they take, and returns the exit code."""
    parser().parse_args(arguments)
    return run_command(convert)


def convert(stores: StoreSettings, _: PostgresSettings) -> int:
    """The command itself."""
    with open_warehouse(stores, takes_lock=True) as (warehouse, client):
        with warehouse.translated_errors(), transaction(client.config.credentials) as cursor:
            events = value_of(cursor, f"SELECT count(*) FROM {stores.postgres_schema}.audit_logs")  # noqa: S608  # names are ours
        minutes = events / EVENTS_PER_SECOND / 60
        print(f"{events:,} events: up to {minutes:.0f} minutes for a hypertable", file=sys.stderr)
        begun = time.monotonic()
        are_done = [outcome.reason is None for outcome in warehouse.prepare(client, is_patient=True)]
    done = sum(are_done)
    say(f"{done} steps done, {len(are_done) - done} not, in {time.monotonic() - begun:.0f} s")
    return 0 if all(are_done) else 1


if __name__ == "__main__":
    end(main())
