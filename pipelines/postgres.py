"""How the warehouse's PostgreSQL is reached: as dlt would, as the loading role or as the owner of the tables."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from adbc_driver_postgresql import dbapi as adbc
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from .settings import OwnerSettings

INSUFFICIENT_PRIVILEGE = "42501"
NOT_AS_ASKED_FOR = "42"
"""SQLSTATE, and a class of it: a table or column that is not there, or is of another type."""


def connect(credentials: PostgresCredentials, *, autocommit: bool = False) -> Connection:
    """A connection to the warehouse, as dlt would reach it."""
    connection: Connection = adbc.connect(credentials.to_native_representation(), autocommit=autocommit)
    return connection


@contextmanager
def transaction(credentials: PostgresCredentials) -> Iterator[Cursor]:
    """A connection of its own, whose work counts as a whole when the block ends."""
    with connect(credentials) as connection, transaction_on(connection) as cursor:
        yield cursor


@contextmanager
def transaction_on(connection: Connection) -> Iterator[Cursor]:
    """As `transaction`, on a connection that goes on whatever happens (one costs 40 ms: the password's hash)."""
    with connection.cursor() as cursor:
        try:
            yield cursor
        except BaseException:
            with suppress(Error):  # a lost connection has rolled back by itself
                connection.rollback()
            raise
        connection.commit()


def rows_of(cursor: Cursor, sql: str) -> list[dict[str, Any]]:
    """The rows that a query answers."""
    cursor.execute(sql)
    rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
    return rows


def value_of(cursor: Cursor, sql: str) -> Any:
    """The one value that a query answers."""
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


def message_of(error: Error) -> str:
    """What the server said, in one line, without the statement that it said it to."""
    text = " ".join((str(error).partition("[libpq]")[2].strip() or str(error)).split())
    said = re.search(r"\b(ERROR|FATAL|PANIC): .*", text)
    return said[0] if said else text
