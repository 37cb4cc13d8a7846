"""The stores that the dashboard asks: the warehouse by a connection that cannot write, the lake by DuckDB.

Each answers questions with rows, or raises an AuditLogsError that says in one sentence what is wrong and what to do.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol, TypeVar

import adbc_driver_manager
import duckdb
from adbc_driver_manager.dbapi import Connection, Cursor
from dlt.common.configuration.container import Container
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.lake.ask.database import ask_lake
from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.ask.places import Days, open_place
from pipelines.load.store import client_of
from pipelines.settings.settings import PROJECT_ROOT, SettingsError, read_environment, read_store_settings
from pipelines.warehouse.connection import connect
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import running_server
from pipelines.warehouse.states import stored_states
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE

from .questions import Question

Row = dict[str, Any]
T = TypeVar("T")
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


class Deadline:
    """When a question has to be answered."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def check(self) -> None:
        """Raises AuditLogsError when it is over."""
        if time.monotonic() > self._ends:
            raise too_long()

    @contextmanager
    def interrupting(self, database: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """A block whose question is stopped when it is over."""
        timer = threading.Timer(max(0, self._ends - time.monotonic()), database.interrupt)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def too_long() -> AuditLogsError:
    """The same of both stores."""
    return AuditLogsError("the question took too long", hint="choose a shorter time or an account")


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

    def accounts(self) -> list[str]:
        """See EventStore."""
        with told():
            place = open_place()
        with place.translated_errors():
            accounts = place.accounts(EVENTS_TABLE)
        if not accounts:
            where = f"nothing lies at {place.url(EVENTS_TABLE)}"
            raise AuditLogsError("the lake has no events yet", detail=where, hint=_START)
        return accounts

    def ask(self, *questions: Question) -> list[list[Row]]:
        """See EventStore."""
        deadline = Deadline(_LONGEST_ANSWER_MS / 1000)

        def answers(database: duckdb.DuckDBPyConnection, files: LakeFiles) -> list[list[Row]]:
            with deadline.interrupting(database):
                # Every question orders by itself.
                database.execute("SET preserve_insertion_order = false")
                return [_lake_rows(database, files, question, deadline) for question in questions]

        return answer_of_lake(answers)


def answer_of_lake(ask: Callable[[duckdb.DuckDBPyConnection, LakeFiles], T]) -> T:
    """Asks the lake of the settings, and returns what `ask` returns.

    Raises:
        AuditLogsError: the lake cannot be read, or not in time.
    """
    with told():
        place = open_place()
    try:
        return ask_lake(place, ask)
    except duckdb.InterruptException as error:
        raise too_long() from error
    except duckdb.Error as error:
        detail = str(error).splitlines()[0]
        hint = "refresh; if it stays, see pipelines/reconcile.py --repair"
        raise AuditLogsError("the lake could not be read", detail=detail, hint=hint) from error


def _lake_rows(
    database: duckdb.DuckDBPyConnection, files: LakeFiles, question: Question, deadline: Deadline
) -> list[Row]:
    """The rows that DuckDB answers."""
    days = Days(question.account_id or "*", question.since.date().isoformat(), question.before.date().isoformat())
    plan = files.plan(days)
    deadline.check()
    if not plan.hours and not plan.copies:
        return []
    number = len(question.parameters)
    sql = question.sql.replace("{events}", f"events_in(${number + 1}, ${number + 2})")
    parameters = [*question.parameters, list(plan.hours), list(plan.copies)]
    rows: list[Row] = database.sql(sql, params=parameters).to_arrow_table().to_pylist()
    return rows
