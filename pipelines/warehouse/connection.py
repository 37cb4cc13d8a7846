"""One way to connect to the warehouse's PostgreSQL, by libpq's parameters: ADBC, psycopg2, dlt and psql all take it.

A URL would change passwords with spaces, sockets, IPv6 addresses and `%`, and libpq prints what it cannot parse of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg2
import pyarrow as pa
from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from adbc_driver_postgresql import dbapi as adbc
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.host.transient import can_pass
from pipelines.settings.settings import OwnerSettings
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

Credentials = PostgresCredentials
"""For those above, which do not import dlt."""

T = TypeVar("T")

INSUFFICIENT_PRIVILEGE = "42501"

_SESSION = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "default_transaction_isolation": "read committed",
    "client_min_messages": "warning",
    "exit_on_error": "off",
    "idle_session_timeout": "0",
}
"""Settings that our statements assume, and that a role or a database may have set otherwise."""
_WANTED = ", ".join(f"('{name}', '{value}')" for name, value in _SESSION.items())
SESSION_SQL = (
    "SELECT pg_catalog.set_config(s.name, w.value, false) FROM pg_catalog.pg_settings AS s"  # noqa: S608  # names are ours
    f" JOIN (VALUES {_WANTED}) AS w (name, value) ON s.name = w.name"
)
"""Sets those that the server knows. A `SET` after the connect: PgBouncer refuses startup parameters."""
_AT_THE_START = "-cquote_all_identifiers=off -cclient_min_messages=warning"
"""Needed before a SET can come: ADBC reads the types' names, and libpq prints each message to stderr as it is."""
_WITHOUT_OPTIONS = set[tuple[str | None, str | None]]()
"""Hosts and ports of the poolers that refuse startup parameters."""


def parameters_of(credentials: PostgresCredentials) -> dict[str, str]:
    """The credentials as libpq's parameters, each with the value that psql would take for the same."""
    own = {
        "host": credentials.host,
        "port": credentials.port,
        "dbname": credentials.database,
        "user": credentials.username,
        "password": credentials.password,
    }
    given = {**own, **credentials.get_query(), "client_encoding": "UTF8"}
    parameters = {name: str(value) for name, value in given.items() if value not in {None, ""}}
    if "host" in parameters:  # URLs have an IPv6 address in brackets
        parameters["host"] = re.sub(r"\[([0-9A-Fa-f:.]+(?:%[^\],]+)?)\]", r"\1", parameters["host"])
    return parameters


def conninfo(parameters: Mapping[str, str]) -> str:
    """The parameters as the one string that libpq takes, whatever characters they have."""
    quoted_values = {name: re.sub(r"(['\\])", r"\\\1", value) for name, value in parameters.items()}
    return " ".join(f"{name}='{value}'" for name, value in quoted_values.items())


def connect(credentials: PostgresCredentials, *, autocommit: bool = False) -> Connection:
    """A connection to the warehouse, in a session with the settings above."""
    return _opened(credentials, partial(_connected, autocommit=autocommit))


def _opened(credentials: PostgresCredentials, opening: Callable[[Mapping[str, str]], T]) -> T:
    """Opens a connection with the settings that are needed at its start, or without, where a pooler refuses them."""
    parameters = parameters_of(credentials)
    if (place := (parameters.get("host"), parameters.get("port"))) not in _WITHOUT_OPTIONS:
        options = f"{parameters.get('options', '')} {_AT_THE_START}".strip()
        try:
            return opening(parameters | {"options": options})
        except (Error, psycopg2.Error) as error:
            if "startup parameter" not in message_of(error):
                raise
            _WITHOUT_OPTIONS.add(place)
    return opening(parameters)


def _connected(parameters: Mapping[str, str], *, autocommit: bool) -> Connection:
    connection: Connection = adbc.connect(conninfo(parameters), autocommit=autocommit)
    try:
        with connection.cursor() as cursor:
            if table_of(cursor, SESSION_SQL).field(0).type != pa.string():
                hint = "ALTER ROLE … RESET ALL"
                raise AuditLogsError("the types of the warehouse's PostgreSQL cannot be read", hint=hint)
        if not autocommit:
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_psycopg2(credentials: PostgresCredentials) -> Any:
    """The same by psycopg2, for dlt; the caller sets the session."""
    return _opened(credentials, lambda parameters: psycopg2.connect(conninfo(parameters)))


@contextmanager
def transaction(credentials: PostgresCredentials) -> Iterator[Cursor]:
    """A transaction on a connection of its own."""
    with connect(credentials) as connection, transaction_on(connection) as cursor:
        yield cursor


@contextmanager
def transaction_on(connection: Connection) -> Iterator[Cursor]:
    """As `transaction`, on a connection that stays open whatever happens (one costs 40 ms: the password's hash)."""
    with connection.cursor() as cursor:
        try:
            yield cursor
        except BaseException:
            with suppress(Error):  # a lost connection has rolled back by itself
                connection.rollback()
            raise
        connection.commit()


def table_of(cursor: Cursor, sql: str, *parameters: Any) -> pa.Table:
    """The answer to a query."""
    cursor.execute(sql, parameters or None)
    return cursor.fetch_arrow_table()


def rows_of(cursor: Cursor, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """The rows of the answer to a query."""
    rows: list[dict[str, Any]] = table_of(cursor, sql, *parameters).to_pylist()
    return rows


def value_of(cursor: Cursor, sql: str) -> Any:
    """The one value of the answer to a query."""
    (row,) = rows_of(cursor, sql)
    (value,) = row.values()
    return value


def as_owner(credentials: PostgresCredentials, owner: OwnerSettings | None) -> PostgresCredentials:
    """The credentials of the role that makes the tables: the owner's where there is one."""
    if owner is None:
        return credentials
    own: PostgresCredentials = credentials.copy()
    own.username, own.password = owner.user, owner.password
    return own


def quoted(name: str) -> str:
    """A role's name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


OF_ENVIRONMENT = ("08", "25", "26", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "XX001", "XX002")
"""Beginnings of an SQLSTATE that no row is to blame for: connection, state of the transaction, rights and names,
rollback, resources, locks, shutdown, the system, the configuration; corrupted files."""


def is_of_environment(sqlstate: str) -> bool:
    """True if an error says that it is not about the rows; so does a lost connection, which has no SQLSTATE."""
    return not sqlstate or sqlstate.startswith(OF_ENVIRONMENT)


def as_ours(error: BaseException, *, hint: str) -> AuditLogsError | None:
    """Our error for what a driver or dlt, which wraps errors in layers of its own, raised; None if it is neither's.

    The hint is for a server that is not available.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AuditLogsError | Error | psycopg2.Error):
        cause = cause.__cause__ or cause.__context__
    if cause is None or isinstance(cause, AuditLogsError):
        return cause
    detail, sqlstate = message_of(cause), sqlstate_of(cause)
    if sqlstate == INSUFFICIENT_PRIVILEGE:
        hint = "GRANT it, or name the role that owns the tables as PG_OWNER_USER"
        return AuditLogsError("a right is missing in the warehouse", detail=detail, hint=hint)
    if sqlstate.startswith("42"):  # a table or column is missing, or of another type
        hint = "a table is gone, or not as the loop makes it: cloudflare-audit doctor says which"
        return AuditLogsError("the warehouse is not as it should be", detail=detail, hint=hint)
    kind = TemporaryError if can_pass(cause) else AuditLogsError
    return kind("the warehouse is not available", detail=detail, hint=hint)


def sqlstate_of(error: Error | psycopg2.Error) -> str:
    """PostgreSQL's code of the error; empty where the server said nothing, such as of a lost connection."""
    return (error.pgcode if isinstance(error, psycopg2.Error) else error.sqlstate) or ""


def message_of(error: Error | psycopg2.Error) -> str:
    """PostgreSQL's own words in one line, without the statement or a row."""
    if isinstance(error, psycopg2.Error):
        words = error.diag.message_primary or ""
    else:
        # The driver's types say that the names are texts; they are bytes.
        names = {b"PG_DIAG_MESSAGE_PRIMARY", "PG_DIAG_MESSAGE_PRIMARY"}
        words = next((value.decode(errors="replace") for name, value in error.details or () if name in names), "")
    if not words:
        text = str(error).partition("[libpq]")[2] or str(error)
        said = re.search(r"\b(ERROR|FATAL|PANIC): .*", text, re.DOTALL)
        words = said[0] if said else text
    return " ".join(words.split())
