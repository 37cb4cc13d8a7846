"""Makes the warehouse's tables before the first load, or checks them where they are another role's. Safe to repeat.

Checks the server first: PostgreSQL's version, the encoding, TimescaleDB.
"""

import re
from functools import cache
from typing import NamedTuple

from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.host.logs import log
from pipelines.settings.settings import OwnerSettings
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_TABLE

from .connection import INSUFFICIENT_PRIVILEGE, as_owner, quoted, rows_of, transaction, transaction_on, value_of
from .lock import one_at_a_time
from .statements import statements_of
from .upkeep import LOCK_TIMEOUT_SECONDS, OLDEST_COLUMNAR, Found, find

OLDEST_POSTGRESQL = 12
"""`date_trunc` takes a time zone from there on. All of the job was run on 12.17; 11.22 lacks a view."""
VERSION_SQL = "SELECT current_setting('server_version_num')::int"

_STATE_TABLE = "_dlt_pipeline_state"
_TWO_PARTS = 100_000
"""Before 10, versions had three: 90624 is 9.6.24."""
_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS \S+\.(\w+) (.+)", re.DOTALL)
_LIKE = re.compile(r"\(LIKE \S+\.(\w+)")
_COLUMN = re.compile(r'^\s+"?([a-z_]+)"?\s+([a-z]+)(\s+NOT NULL)?', re.MULTILINE)


class Column(NamedTuple):
    """A column of a table, as the DDL says."""

    table: str
    name: str
    type: str
    is_nullable: bool


def set_up(connection: Connection, credentials: PostgresCredentials, owner: OwnerSettings | None, schema: str) -> None:
    """Makes what is missing, as the owner if there is one, and grants the loading role what it needs.

    The connection is that of the loading role, and not in autocommit mode. A role that owns nothing alters nothing:
    its tables are checked, and used as they are.

    Raises:
        AuditLogsError: they are missing, may not be written, or have another key; or the server is not supported.
        adbc_driver_manager.Error: the server is down.
    """
    with transaction_on(connection) as cursor:
        check_version(value_of(cursor, VERSION_SQL))
        check_encoding(cursor)
        user = value_of(cursor, "SELECT current_user::text")
        if value_of(cursor, f"SELECT quote_ident('{schema}')") != schema:
            raise AuditLogsError(f"PG_SCHEMA={schema} is a word of SQL", hint="choose another name for the schema")
        _forget_state_without_events(cursor, schema)
    check_timescale(find(connection, schema))
    _make_tables(connection, credentials, owner, schema, user)
    with transaction_on(connection) as cursor:
        check_rights(cursor, schema, user)
        check_key(cursor, schema)
        check_columns(cursor, schema)


def _forget_state_without_events(cursor: Cursor, schema: str) -> None:
    """Where someone has dropped the events, the cursor that says how far they went must go, too."""
    names = value_of(cursor, f"SELECT array_agg(tablename) FROM pg_tables WHERE schemaname = '{schema}'") or []  # noqa: S608  # names are ours
    if _STATE_TABLE in names and EVENTS_TABLE not in names:
        cursor.execute(f"DELETE FROM {schema}.{_STATE_TABLE}")  # noqa: S608  # names are ours
        log.warning("warehouse.dropped", schema=schema, hint="its events are read again, as at a first start")


def _make_tables(
    connection: Connection, credentials: PostgresCredentials, owner: OwnerSettings | None, schema: str, user: str
) -> None:
    statements = statements_of("tables.sql", schema=schema)
    if owner is not None:
        statements += statements_of("grants.sql", schema=schema, ingest=quoted(user))
    try:
        with transaction(as_owner(credentials, owner)) if owner else transaction_on(connection) as cursor:
            value_of(cursor, one_at_a_time(schema))  # fetched: until then the driver goes on, and nobody waits
            # IF NOT EXISTS alone would ask for the right to make schemas even where there is nothing to make. Asked of
            # the table: to_regnamespace remembers that there was none before the lock was waited for.
            if not value_of(cursor, f"SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}')"):  # noqa: S608  # names are ours
                cursor.execute(f"CREATE SCHEMA {schema}")
            for statement in statements:
                cursor.execute(statement)
            _add_columns(cursor, schema)
    except Error as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE or owner is not None:
            raise
        log.info("warehouse.not_owned", user=user, schema=schema)


# --- the server ------------------------------------------------------------------------------------------------------


def check_version(number: int) -> str:
    """PostgreSQL's version as people write it, of its `server_version_num`. Raises AuditLogsError if it is too old."""
    version = f"{number // 10_000}.{number % 10_000 // (1 if number >= _TWO_PARTS else 100)}"
    if number < OLDEST_POSTGRESQL * 10_000:
        hint = f"{OLDEST_POSTGRESQL} is the oldest that works: upgrade it, or set PG_HOST to another server"
        raise AuditLogsError(f"PostgreSQL {version} is too old", hint=hint)
    return version


def check_encoding(cursor: Cursor) -> str:
    """UTF8, which alone holds every event: LATIN1 stored `josé` as `josÃ©`. Raises AuditLogsError for another one."""
    names = "current_setting('server_encoding') AS server, current_setting('client_encoding') AS client"
    (found,) = rows_of(cursor, f"SELECT {names}, current_database()::text AS database")
    if found["server"] != "UTF8":
        hint = "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and set PG_DATABASE to that"
        raise AuditLogsError(
            f"the database {found['database']} has the encoding {found['server']}, not UTF8", hint=hint
        )
    if found["client"] != "UTF8":
        hint = "something between here and the server sets client_encoding: a pooler, perhaps"
        raise AuditLogsError(f"the session has the client encoding {found['client']}, not UTF8", hint=hint)
    return "UTF8"


def check_timescale(found: Found) -> None:
    """Raises if the table is compressed by a TimescaleDB that loses events there."""
    if found.is_columnar and not found.may_compress:
        hint = f"ALTER EXTENSION timescaledb UPDATE: {OLDEST_COLUMNAR} is the oldest for a compressed table"
        raise AuditLogsError(f"TimescaleDB {found.extension} loses events in compressed chunks", hint=hint)


# --- the tables ------------------------------------------------------------------------------------------------------


def missing_table(table: str, user: str) -> AuditLogsError:
    """The error for a table that is not there and cannot be made."""
    hint = "set PG_OWNER_USER and PG_OWNER_PASSWORD, or have its owner run pipelines/warehouse/sql/tables.sql"
    return AuditLogsError(f"there is no table {table}, and {user} may not make it", hint=hint)


def check_rights(cursor: Cursor, schema: str, user: str, *, may_make: bool = False) -> None:
    """Asks the catalogs, which everyone may read: the tables themselves may be out of sight, or yet to be made."""
    for table in (EVENTS_TABLE, QUARANTINE_TABLE):
        may_use = value_of(
            cursor,
            "SELECT bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"  # noqa: S608  # names are ours
            " AND has_table_privilege(c.oid, 'INSERT')) FROM pg_class c JOIN pg_namespace n"
            f" ON n.oid = c.relnamespace WHERE n.nspname = '{schema}' AND c.relname = '{table}'",
        )
        if may_use is None and not may_make:
            raise missing_table(f"{schema}.{table}", user)
        if may_use is False:
            hint = "GRANT it what pipelines/warehouse/sql/grants.sql says"
            raise AuditLogsError(f"{user} may not read and insert into {schema}.{table}", hint=hint)


def check_key(cursor: Cursor, schema: str) -> None:
    """Raises if the table of events has another key than ours."""
    name = f"{schema}.{EVENTS_TABLE}"
    key = value_of(
        cursor,
        "SELECT array_agg(a.attname ORDER BY k.n) FROM pg_index i"  # noqa: S608  # names are ours
        " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
        f" WHERE i.indisprimary AND i.indrelid = '{name}'::regclass",
    )
    if tuple(key or ()) != PRIMARY_KEY:
        raise AuditLogsError(
            f"the table {name} has the key {tuple(key or ())}, not {PRIMARY_KEY}",
            hint="it is not ours: set PG_SCHEMA to another schema, or rename that table",
        )


@cache
def columns_of_tables() -> tuple[Column, ...]:
    """The columns that `tables.sql` gives its tables."""
    texts: dict[str, str] = {}
    for found in filter(None, map(_TABLE.match, statements_of("tables.sql"))):
        like = _LIKE.match(found[2])
        texts[found[1]] = texts[like[1]] if like else found[2]
    return tuple(
        Column(table, name, kind, not is_required)
        for table, text in texts.items()
        for name, kind, is_required in _COLUMN.findall(text)
    )


def check_columns(cursor: Cursor, schema: str, *, maker: str | None = None) -> None:
    """Raises AuditLogsError if a table that is there lacks a column of ours, but for those that the maker can add."""
    if lacking := _lacking_columns(cursor, schema, maker=maker):
        table = lacking[0].table
        names = ", ".join(column.name for column in lacking if column.table == table)
        hint = "add what pipelines/warehouse/sql/tables.sql has, or set PG_SCHEMA to another schema"
        raise AuditLogsError(f"the table {schema}.{table} has no column {names}", hint=hint)


def _add_columns(cursor: Cursor, schema: str) -> None:
    """Gives the tables of an older release the nullable columns that they lack, as null in the rows they hold.

    Nothing is rewritten, and a table that lacks none is not locked.
    """
    for column in _lacking_columns(cursor, schema):
        if column.is_nullable:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
            cursor.execute(
                f'ALTER TABLE {schema}.{column.table} ADD COLUMN IF NOT EXISTS "{column.name}" {column.type}'
            )
            log.info("warehouse.column_added", table=f"{schema}.{column.table}", column=column.name)


def _lacking_columns(cursor: Cursor, schema: str, *, maker: str | None = None) -> list[Column]:
    """The columns that the existing tables lack, without those that the maker can add."""
    role = (maker or "").replace("'", "''")  # may be unknown to the server, under a pooler's own names
    rows = rows_of(
        cursor,
        "SELECT c.relname::text AS name, ARRAY(SELECT a.attname::text FROM pg_attribute a"  # noqa: S608  # names are ours
        " WHERE a.attrelid = c.oid AND NOT a.attisdropped) AS columns,"
        f" EXISTS (SELECT FROM pg_roles m WHERE m.rolname = '{role}' AND pg_has_role(m.oid, c.relowner, 'USAGE'))"
        " AS is_makers"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE n.nspname = '{schema}' AND c.relkind IN ('r', 'p')",
    )
    tables = {row["name"]: row for row in rows}
    return [
        column
        for column in columns_of_tables()
        if (table := tables.get(column.table))
        and column.name not in table["columns"]
        and not (column.is_nullable and table["is_makers"])
    ]
