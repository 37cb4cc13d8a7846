"""`python pipelines/psql.py [psql's own arguments]`: psql on the warehouse, embedded or not, as the settings say."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from pipelines.command import run_command
from pipelines.embedded_postgres import BINARIES
from pipelines.settings import PostgresSettings, StoreSettings


def psql(arguments: Sequence[str], stores: StoreSettings, server: PostgresSettings) -> int:
    """Runs psql and returns its exit code."""
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
    return subprocess.run([program, *arguments], env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(run_command(partial(psql, sys.argv[1:])))
