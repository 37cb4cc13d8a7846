"""Runs psql on the warehouse, embedded or not, with psql's own arguments.

It makes no embedded server. Names are looked for in PG_SCHEMA, unless a pooler refuses that startup parameter.

Examples:
  cloudflare-audit psql
  cloudflare-audit psql -c "SELECT actor_email, action_type, count(*) FROM audit_logs GROUP BY 1, 2"
  cloudflare-audit psql -f report.sql
  cloudflare-audit psql -?    psql's own help

Exit codes: those of psql: 0 done, 1 or 3 an error, 2 the connection broke; 1 if there is no warehouse yet.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import sys
from collections.abc import Sequence
from functools import partial

from pipelines.cli.arguments import command_parser
from pipelines.cli.command import run_lake_command
from pipelines.cli.own_psql import run_psql
from pipelines.settings.settings import read_environment, read_store_settings
from pipelines.warehouse.embedded import server_if_there
from sources.cloudflare_audit_logs.errors import AuditLogsError


def parser() -> argparse.ArgumentParser:
    """Returns a parser for the help alone: the other arguments are psql's."""
    return command_parser("psql", __doc__)


def main(arguments: Sequence[str]) -> int:
    """Runs psql and returns its exit code, or 1 where there is no warehouse."""
    if list(arguments) in (["--help"], ["-h"]):
        parser().parse_args(arguments)
    stores = read_store_settings(read_environment())
    with server_if_there(stores) as server:
        if server is None:
            raise AuditLogsError(f"nothing is in {stores.postgres_dir} yet", hint="cloudflare-audit run makes it")
        return run_psql(arguments, stores)


if __name__ == "__main__":
    end(run_lake_command(partial(main, sys.argv[1:])))
