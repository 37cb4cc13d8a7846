"""The frame of every command: settings, a running warehouse, errors as one line, exit codes."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from pipelines.host.logs import log
from pipelines.host.output import begin_results
from pipelines.host.transient import HINT_OF_SYSTEM, WrongUsageError, exit_code_of, words_of_system
from pipelines.settings.settings import (
    PostgresSettings,
    Settings,
    SettingsError,
    StoreSettings,
    begin_logs,
    read_environment,
    read_settings,
    read_store_settings,
)
from pipelines.warehouse.embedded import server_of
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .entry import INTERRUPTED, end_quietly_on_signals, interrupt_on_signals


def run_command(work: Callable[[StoreSettings, PostgresSettings], int]) -> int:
    """Runs the work on the stores of the settings; an embedded server that was not running runs for as long."""

    def run() -> int:
        stores = read_store_settings(read_environment())
        with server_of(stores) as server:
            return work(stores, server)

    return run_lake_command(run)


def run_window_command(work: Callable[[Settings], int], *, asks_api: bool) -> int:
    """The same for work that needs all of the settings; without the API, token and accounts may be missing."""

    def run() -> int:
        settings = read_settings(read_environment(), now=datetime.now(UTC), asks_api=asks_api)
        with server_of(settings.stores):
            return work(settings)

    return run_lake_command(run)


def run_lake_command(work: Callable[[], int]) -> int:
    """Runs work that needs the lake alone, or that opens what it needs by itself; returns its or the error's exit code.

    Errors are one line on stderr.
    """
    out = begin_results()
    begin_logs()
    try:
        interrupt_on_signals()
        return work()
    except BrokenPipeError:  # `… | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 1
    except WrongUsageError as error:
        heading = ["The settings are not right; nothing was touched:"] if isinstance(error, SettingsError) else []
        print(*heading, *str(error).splitlines(), sep="\n  ", file=sys.stderr)
        return exit_code_of(error)
    except AuditLogsError as error:
        log.error("command.failed", error=error)
        return exit_code_of(error)
    except OSError as error:
        log.error("command.failed", error=words_of_system(error), hint=HINT_OF_SYSTEM)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        end_quietly_on_signals()
