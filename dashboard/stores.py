"""The stores that the dashboard asks: the warehouse by a connection that cannot write, the lake by DuckDB.

Each answers questions with rows, or raises an AuditLogsError that says in one sentence what is wrong and what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any, Protocol

import adbc_driver_manager
import duckdb
from adbc_driver_manager.dbapi import Connection, Cursor
from dlt.common.configuration.container import Container
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.lake.database import lake_database
from pipelines.lake.destination import Lake
from pipelines.lake.reads import LakeReader, read_lake
from pipelines.load.store import client_of
from pipelines.settings.settings import PROJECT_ROOT, SettingsError, read_environment, read_store_settings
from pipelines.warehouse.connection import connect
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import running_server
from pipelines.warehouse.states import stored_states
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE
from sources.cloudflare_audit_logs.streams import Window

from .copies import EVENTS, Deadline, LakeFiles, too_long
from .questions import Question

Row = dict[str, Any]
_START = "start the pipeline: make run, or make demo for a simulated one"
_LONGEST_ANSWER_MS = 30_000
_settings_lock = Lock()

_ACCOUNTS = """
    WITH RECURSIVE found AS (
        (SELECT account_id FROM {schema}.audit_logs ORDER BY account_id LIMIT 1)
        UNION ALL
        SELECT (SELECT a.account_id FROM {schema}.audit_logs AS a WHERE a.account_id > found.account_id
                ORDER BY a.account_id LIMIT 1)
        FROM found WHERE found.account_id IS NOT NULL
    ) SELECT account_id FROM found WHERE account_id IS NOT NULL"""
"""One look into the key's index for each account, not one for each event."""


class EventStore(Protocol):
    """A store, as the page needs it."""

    name: str

    def accounts(self) -> list[str]:
        """The accounts that it has events of."""

    def ask(self, *questions: Question) -> list[list[Row]]:
        """The answers, in order."""


def store_of(name: str) -> EventStore:
    """The store of that name, as the settings say now. Asks it nothing yet."""
    return LakeStore() if name == "lake" else WarehouseStore()


def read_settings_anew() -> None:
    """Dlt reads its configuration once a process; `.env` may have changed, and the embedded server have come."""
    with _settings_lock, told():
        Container()[PluggableRunContext].reload(str(PROJECT_ROOT))


@contextmanager
def told() -> Iterator[None]:
    """A block whose errors of settings are told as ours."""
    try:
        yield
    except SettingsError as error:
        raise AuditLogsError("the settings are not right", detail="; ".join(error.problems)) from error
    except ConfigurationException as error:
        raise AuditLogsError("the settings do not say where the store is", hint="see config.example.env") from error


class WarehouseStore:
    """The warehouse. Sessions are read-only, and no question may take longer than half a minute."""

    name = "warehouse"

    def __init__(self) -> None:
        with told():
            self._settings = read_store_settings(read_environment())
            self._warehouse = Warehouse.of(self._settings)

    def accounts(self) -> list[str]:
        """See EventStore."""
        with self.session() as cursor:
            return [row["account_id"] for row in self.rows(cursor, _ACCOUNTS)]

    def ask(self, *questions: Question) -> list[list[Row]]:
        """See EventStore; what was rehydrated counts, too."""
        with self.session() as cursor:
            (found,) = self.rows(cursor, "SELECT to_regclass('{schema}.audit_logs_all')::text AS view")
            events = f"{{schema}}.{'audit_logs_all' if found['view'] else EVENTS_TABLE}"
            return [self.rows(cursor, ask.sql.replace("{events}", events), *ask.parameters) for ask in questions]

    @contextmanager
    def session(self) -> Iterator[Cursor]:
        """A session of its own, which cannot write.

        Raises:
            AuditLogsError: it is down, refuses us, or has no tables yet.
        """
        with (
            told(),
            self._warehouse.translated_errors(),
            self._connection() as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET default_transaction_read_only = on")
            cursor.execute(f"SET statement_timeout = {_LONGEST_ANSWER_MS}")
            (found,) = self.rows(cursor, f"SELECT to_regclass('{{schema}}.{EVENTS_TABLE}')::text AS name")
            if found["name"] is None:
                where = f"there is no table {self._warehouse.dataset_name}.{EVENTS_TABLE}"
                raise AuditLogsError("the warehouse has no events yet", detail=where, hint=_START)
            yield cursor

    def states(self, cursor: Cursor) -> list[Any]:
        """The states of dlt's pipelines."""
        return stored_states(cursor, self._warehouse.dataset_name)

    def rows(self, cursor: Cursor, sql: str, *parameters: Any) -> list[Row]:
        """The rows that a query answers; `{schema}` in it is the warehouse's."""
        # No text of PostgreSQL's has a NUL, and ADBC takes one for the server's end.
        known = tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in parameters)
        try:
            cursor.execute(sql.replace("{schema}", self._warehouse.dataset_name), known or None)
        except adbc_driver_manager.Error as error:
            if error.sqlstate == "57014":  # query_canceled
                raise too_long() from error
            raise
        rows: list[Row] = cursor.fetch_arrow_table().to_pylist()
        return rows

    def _connection(self) -> Connection:
        if self._settings.postgres is None and running_server(self._settings.postgres_dir) is None:
            raise TemporaryError("the embedded PostgreSQL is not running", hint=_START)
        return connect(client_of(self._warehouse).config.credentials, autocommit=True)


class LakeStore:
    """The lake. Only the days and accounts that are asked about are read, and no question may take half a minute."""

    name = "lake"
    _files: LakeFiles | None = None

    def accounts(self) -> list[str]:
        """See EventStore."""
        with told(), read_lake(must_exist=False) as lake, Lake().translated_errors():
            accounts = self._files_of(lake).accounts()
        if not accounts:
            where = f"nothing lies at {lake.objects.url(EVENTS_TABLE)}"
            raise AuditLogsError("the lake has no events yet", detail=where, hint=_START)
        return accounts

    def ask(self, *questions: Question) -> list[list[Row]]:
        """See EventStore."""
        deadline = Deadline(_LONGEST_ANSWER_MS / 1000)
        with told(), read_lake() as lake, lake_database(lake) as database, deadline.interrupting(database):
            database.execute("SET preserve_insertion_order = false")  # every question orders by itself
            return [self._answer(lake, database, question, deadline) for question in questions]

    def _answer(
        self, lake: LakeReader, database: duckdb.DuckDBPyConnection, question: Question, deadline: Deadline
    ) -> list[Row]:
        window = Window(question.since, question.before)
        if question.is_of_one:
            files = [lake.objects.url(part.path) for part in lake.sizes(question.account_id, window)]
        else:
            files = self._files_of(lake).copies(window, question.account_id, deadline, partial(lake_rows, database))
        if not files:
            return []
        sql = question.sql.replace(
            "{events}",
            f"read_parquet(${len(question.parameters) + 1}, hive_partitioning = false, schema = {EVENTS})",
        )
        return lake_rows(database, sql, *question.parameters, files)

    def _files_of(self, lake: LakeReader) -> LakeFiles:
        self._files = self._files or LakeFiles(lake)
        return self._files


def lake_rows(database: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[Row]:
    """The rows that DuckDB answers."""
    try:
        rows: list[Row] = database.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
    except duckdb.InterruptException as error:
        raise too_long() from error
    except duckdb.Error as error:
        detail = str(error).splitlines()[0]
        hint = "refresh; if it stays, see pipelines/reconcile.py --repair"
        raise AuditLogsError("the lake could not be read", detail=detail, hint=hint) from error
    return rows
