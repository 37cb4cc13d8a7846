"""Sessions of the warehouse that cannot write, kept for the next question: one for each of those asked at once."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import adbc_driver_manager
from adbc_driver_manager.dbapi import Connection
from dlt.common.configuration.container import Container
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.load.store import client_of
from pipelines.settings.settings import PROJECT_ROOT, SettingsError, read_environment, read_store_settings
from pipelines.warehouse.connection import connect, table_of
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import running_server
from pipelines.warehouse.states import stored_states
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE

from .deadline import LONGEST_ANSWER_SECONDS, Deadline

START = "start the pipeline: make run, or make demo for a simulated one"
AT_ONCE = 8
"""Sessions; whoever comes then waits for one, as long as for an answer."""
_KEPT_SECONDS = 60
"""A session is used no longer, so that settings that have changed are followed."""
_QUERY_CANCELED = "57014"
_settings_lock = threading.Lock()

_FOUND = f"""
    SELECT to_regclass('{{schema}}.{EVENTS_TABLE}')::text AS events,
        to_regclass('{{schema}}.audit_logs_all')::text AS every,
        to_regclass('{{schema}}.audit_seen_hourly')::text AS seen,
        (SELECT quote_ident(collname) FROM pg_catalog.pg_collation WHERE collname IN ('pg_c_utf8', 'und-x-icu')
            AND collencoding IN (-1, (SELECT encoding FROM pg_catalog.pg_database WHERE datname = current_database()))
            ORDER BY collname LIMIT 1) AS collation"""


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


@dataclass
class Session:
    """A connection that cannot write, and what was found at its opening."""

    warehouse: Warehouse
    connection: Connection
    opened: float
    events: str = EVENTS_TABLE
    """With what was rehydrated, where that can be asked for."""
    is_counted: bool = False
    """True if the events are counted by hour and nothing is rehydrated that is not."""
    collate: str = ""

    def table(self, sql: str, *parameters: Any, deadline: Deadline | None = None) -> Any:
        """The answer to a query, as Arrow; `{schema}` in it is the warehouse's."""
        # No text of PostgreSQL's has a NUL, and ADBC takes one for the server's end.
        known = tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in parameters)
        deadline = deadline or Deadline()
        try:
            with self.connection.cursor() as cursor, deadline.interrupting(self.connection.adbc_cancel):
                return table_of(cursor, sql.replace("{schema}", self.warehouse.dataset_name), *known)
        except adbc_driver_manager.Error as error:
            if error.sqlstate == _QUERY_CANCELED:
                raise deadline.error() from error
            raise

    def rows(self, sql: str, *parameters: Any, deadline: Deadline | None = None) -> list[dict[str, Any]]:
        """The same as rows."""
        rows: list[dict[str, Any]] = self.table(sql, *parameters, deadline=deadline).to_pylist()
        return rows

    def states(self) -> list[Any]:
        """The states of dlt's pipelines."""
        with self.connection.cursor() as cursor:
            return stored_states(cursor, self.warehouse.dataset_name)


class Sessions:
    """The sessions of a process."""

    def __init__(self) -> None:
        self._idle, self._slots = list[Session](), threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def session(self, deadline: Deadline | None = None) -> Iterator[Session]:
        """A session that nobody else has; closed if what is done with it fails.

        Raises:
            AuditLogsError: the warehouse is down, refuses us, or has no tables yet.
        """
        if not self._slots.acquire(timeout=deadline.seconds_left if deadline else LONGEST_ANSWER_SECONDS):
            raise TemporaryError("too many questions are asked at once", hint="try again in a moment")
        try:
            session = self._kept() or _opened()
            with session.warehouse.translated_errors():
                try:
                    yield session
                except BaseException:
                    with suppress(adbc_driver_manager.Error):
                        session.connection.close()
                    raise
            if deadline is None or not deadline.is_given_up:  # else the cancel may still be on its way
                self._idle.append(session)
            else:
                session.connection.close()
        finally:
            self._slots.release()

    def _kept(self) -> Session | None:
        with suppress(IndexError):
            while session := self._idle.pop():
                if time.monotonic() - session.opened < _KEPT_SECONDS:
                    return session
                with suppress(adbc_driver_manager.Error):
                    session.connection.close()
        return None

    def close(self) -> None:
        """Closes those that nobody uses."""
        while self._idle:
            with suppress(adbc_driver_manager.Error):
                self._idle.pop().connection.close()


def _opened() -> Session:
    read_settings_anew()
    with told():
        settings = read_store_settings(read_environment())
        warehouse = Warehouse.of(settings)
        if settings.postgres is None and running_server(settings.postgres_dir) is None:
            raise TemporaryError("the embedded PostgreSQL is not running", hint=START)
        with warehouse.translated_errors():
            credentials = client_of(warehouse).config.credentials
            session = Session(warehouse, connect(credentials, autocommit=True), time.monotonic())
            try:
                _prepare(session)
            except BaseException:
                session.connection.close()
                raise
    return session


def _prepare(session: Session) -> None:
    with session.connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        cursor.execute(f"SET statement_timeout = {int(LONGEST_ANSWER_SECONDS * 1000)}")
        cursor.execute("SET work_mem = '32MB'")  # an overview of 500,000 events: a third less time than with 4
    (found,) = session.rows(_FOUND)
    if found["events"] is None:
        where = f"there is no table {session.warehouse.dataset_name}.{EVENTS_TABLE}"
        raise AuditLogsError("the warehouse has no events yet", detail=where, hint=START)
    session.collate = f" COLLATE {found['collation']}" if found["collation"] else ""
    session.events = "audit_logs_all" if found["every"] else EVENTS_TABLE
    if found["seen"]:
        rehydrated = session.rows("SELECT FROM {schema}.audit_logs_rehydrated LIMIT 1") if found["every"] else []
        session.is_counted = not rehydrated
