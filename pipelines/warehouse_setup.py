"""Makes the warehouse's tables before the first load, or checks them where they are another role's. Safe to repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import adbc_driver_manager
from adbc_driver_manager.dbapi import Connection, Cursor
from adbc_driver_postgresql import dbapi as adbc
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_TABLE

from .logs import log
from .settings import OwnerSettings

_TABLES = Path(__file__).with_name("warehouse.sql")
_GRANTS = Path(__file__).with_name("grants.sql")
_INSUFFICIENT_PRIVILEGE = "42501"


def connect(credentials: PostgresCredentials, *, autocommit: bool = False) -> Connection:
    """A connection to the warehouse, as dlt would reach it."""
    connection: Connection = adbc.connect(credentials.to_native_representation(), autocommit=autocommit)
    return connection


def set_up(credentials: PostgresCredentials, owner: OwnerSettings | None, schema: str) -> None:
    """Makes what is missing, as the owner if there is one, and grants the loading role what it needs.

    A role that owns nothing alters nothing: then the tables are looked at, and used as they are.

    Raises:
        AuditLogsError: they are missing, may not be written, or have another key.
        adbc_driver_manager.Error: the server is down.
    """
    statements = statements_of(_TABLES, schema=schema)
    if owner is not None:
        statements += statements_of(_GRANTS, schema=schema, ingest=f'"{credentials.username}"')
    try:
        with _transaction(_as_owner(credentials, owner)) as cursor:
            # IF NOT EXISTS alone would ask for the right to make schemas even where there is nothing to make.
            if not _value(cursor, f"SELECT to_regnamespace('{schema}') IS NOT NULL AS value"):
                cursor.execute(f"CREATE SCHEMA {schema}")
            for statement in statements:
                cursor.execute(statement)
    except adbc_driver_manager.Error as error:
        if error.sqlstate != _INSUFFICIENT_PRIVILEGE or owner is not None:
            raise
        log.info("warehouse.not_owned", user=credentials.username, schema=schema)
    with _transaction(credentials) as cursor:
        _check_rights(cursor, schema, str(credentials.username))
        _check_key(cursor, schema)


def statements_of(file: Path, **names: str) -> list[str]:
    """The statements of a file of ours, with the names that it leaves open."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("--")]
    text = "\n".join(lines)
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return [statement for statement in text.split(";") if statement.strip()]


def _as_owner(credentials: PostgresCredentials, owner: OwnerSettings | None) -> PostgresCredentials:
    if owner is None:
        return credentials
    own: PostgresCredentials = credentials.copy()
    own.username, own.password = owner.user, owner.password
    return own


@contextmanager
def _transaction(credentials: PostgresCredentials) -> Iterator[Cursor]:
    with connect(credentials) as connection, connection.cursor() as cursor:
        yield cursor
        connection.commit()


def _check_rights(cursor: Cursor, schema: str, user: str) -> None:
    """Asks the catalogs, which everyone may read: the tables themselves may be out of sight."""
    for table in (EVENTS_TABLE, QUARANTINE_TABLE):
        may_use = _value(
            cursor,
            "SELECT bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"  # noqa: S608  # names are ours
            " AND has_table_privilege(c.oid, 'INSERT')) AS value FROM pg_class c JOIN pg_namespace n"
            f" ON n.oid = c.relnamespace WHERE n.nspname = '{schema}' AND c.relname = '{table}'",
        )
        if may_use is None:
            raise AuditLogsError(
                f"there is no table {schema}.{table}, and {user} may not make it",
                hint="set PG_OWNER_USER and PG_OWNER_PASSWORD, or have its owner run pipelines/warehouse.sql",
            )
        if not may_use:
            raise AuditLogsError(
                f"{user} may not read and insert into {schema}.{table}", hint="GRANT it what pipelines/grants.sql says"
            )


def _check_key(cursor: Cursor, schema: str) -> None:
    name = f"{schema}.{EVENTS_TABLE}"
    key = _value(
        cursor,
        "SELECT array_agg(a.attname ORDER BY k.n) AS value FROM pg_index i"  # noqa: S608  # names are ours
        " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
        f" WHERE i.indisprimary AND i.indrelid = '{name}'::regclass",
    )
    if tuple(key or ()) != PRIMARY_KEY:
        raise AuditLogsError(
            f"the table {name} has the key {tuple(key or ())}, not {PRIMARY_KEY}",
            hint="it is not ours: set PG_SCHEMA to another schema, or rename that table",
        )


def _value(cursor: Cursor, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetch_arrow_table()["value"][0].as_py()
