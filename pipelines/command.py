"""What the commands have in common: settings, a running warehouse, errors as one line, exit codes."""

import sys
from collections.abc import Callable
from contextlib import nullcontext

from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

from .embedded_postgres import embedded_postgres
from .logs import configure_logs, log
from .settings import PostgresSettings, SettingsError, StoreSettings, read_environment, read_store_settings


def run_command(work: Callable[[StoreSettings, PostgresSettings], int]) -> int:
    """Runs the work on the stores of the settings; an embedded server that was not running runs for as long."""
    configure_logs()
    try:
        stores = read_store_settings(read_environment())
        with nullcontext(stores.postgres) if stores.postgres else embedded_postgres(stores.postgres_dir) as server:
            return work(stores, server)
    except SettingsError as error:
        print("The settings are not right; nothing was touched:", *error.problems, sep="\n  ", file=sys.stderr)
        return 2
    except (AuditLogsError, OSError) as error:
        log.error("command.failed", error=error)
        return 75 if isinstance(error, TemporaryError) else 1
    except KeyboardInterrupt:
        return 130
