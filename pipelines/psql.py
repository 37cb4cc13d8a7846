"""`python pipelines/psql.py [psql's own arguments]`: psql on the warehouse, embedded or not, as the settings say."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from pipelines.embedded_postgres import BINARIES, embedded_postgres
from pipelines.settings import SettingsError, read_environment, read_store_settings
from sources.cloudflare_audit_logs.errors import AuditLogsError


def main(arguments: Sequence[str]) -> int:
    """Runs psql and returns its exit code; an embedded server that was not running runs for as long."""
    try:
        stores = read_store_settings(read_environment())
        with nullcontext(stores.postgres) if stores.postgres else embedded_postgres(stores.postgres_dir) as server:
            environment = {
                "PGHOST": server.host,
                "PGPORT": str(server.port),
                "PGDATABASE": server.database,
                "PGUSER": server.user,
                "PGPASSWORD": server.password,
                "PGSSLMODE": server.sslmode,
                "PGOPTIONS": f"-c search_path={stores.postgres_schema}",
            }
            psql = shutil.which("psql") or str(BINARIES / "psql")
            return subprocess.run([psql, *arguments], env={**os.environ, **environment}, check=False).returncode
    except (SettingsError, AuditLogsError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
