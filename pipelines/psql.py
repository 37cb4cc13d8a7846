"""`python pipelines/psql.py [psql's own arguments]`: psql on the warehouse, embedded or not, as the settings say.

An embedded one that was never made is not made.
"""

from pipelines.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from pipelines.command import run_lake_command, server_if_there
from pipelines.embedded_postgres import BINARIES
from pipelines.settings import PostgresSettings, StoreSettings, read_environment, read_store_settings
from sources.cloudflare_audit_logs.errors import AuditLogsError


def main(arguments: Sequence[str]) -> int:
    """Runs psql and returns its exit code, or 1 where there is no warehouse."""
    stores = read_store_settings(read_environment())
    with server_if_there(stores) as server:
        if server is None:
            raise AuditLogsError(f"nothing is in {stores.postgres_dir} yet", hint="pipelines/run.py makes it")
        return psql(arguments, stores, server)


def psql(arguments: Sequence[str], stores: StoreSettings, server: PostgresSettings) -> int:
    """Runs psql on a server and returns its exit code."""
    environment = {
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGDATABASE": server.database,
        "PGUSER": server.user,
        "PGPASSWORD": server.password,
        "PGSSLMODE": server.sslmode,
        "PGOPTIONS": f"-c search_path={stores.postgres_schema}",
    }
    program = shutil.which("psql") or str(BINARIES / "psql")
    # On a terminal psql has it to itself; elsewhere its errors go the way of ours: without secrets.
    errors = None if sys.stderr.isatty() else subprocess.PIPE
    command = [program, *arguments]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=errors, text=True, errors="replace"
    ) as process:
        sys.stderr.writelines(process.stderr or ())
    return process.returncode


if __name__ == "__main__":
    end(run_lake_command(partial(main, sys.argv[1:])))
