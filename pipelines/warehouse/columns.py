"""The columns of the warehouse's tables: what `sql/tables.sql` says and what is there, made the same."""

import re
from functools import cache
from typing import NamedTuple

from adbc_driver_manager.dbapi import Cursor

from pipelines.host.logs import log
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .connection import rows_of
from .statements import statements_of

LOCK_TIMEOUT_SECONDS = 5
"""How long a new column waits for who reads the table, and everyone behind for it; the opening is tried again then."""

_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS \S+\.(\w+) (.+)", re.DOTALL)
_LIKE = re.compile(r"\(LIKE \S+\.(\w+)")
_COLUMN = re.compile(r'^\s+"?([a-z_]+)"?\s+([a-z]+)(\s+NOT NULL)?', re.MULTILINE)
_OWNED = """SELECT relname FROM pg_class
    WHERE relnamespace = '{schema}'::regnamespace AND pg_has_role('{maker}', relowner, 'USAGE')"""


class Column(NamedTuple):
    """A column of a table, as the DDL says."""

    table: str
    name: str
    type: str
    is_nullable: bool


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


def lacking_columns(cursor: Cursor, schema: str) -> list[Column]:
    """The columns that the tables which are there have not. Asks the catalog, which everyone may read."""
    rows = rows_of(
        cursor,
        "SELECT c.relname AS table_name, a.attname AS column_name FROM pg_attribute a"  # noqa: S608  # names are ours
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE NOT a.attisdropped AND n.nspname = '{schema}' AND c.relkind IN ('r', 'p')",
    )
    held = {(row["table_name"], row["column_name"]) for row in rows}
    tables = {table for table, _ in held}
    return [c for c in columns_of_tables() if c.table in tables and (c.table, c.name) not in held]


def add_columns(cursor: Cursor, schema: str) -> None:
    """Gives the tables of an older release the nullable columns that they lack; in what they hold, they are null.

    Nothing is rewritten, and nothing is locked where nothing lacks.

    Raises:
        adbc_driver_manager.Error: the tables are another role's, or someone reads one for long.
    """
    for column in lacking_columns(cursor, schema):
        if column.is_nullable:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
            cursor.execute(
                f'ALTER TABLE {schema}.{column.table} ADD COLUMN IF NOT EXISTS "{column.name}" {column.type}'
            )
            log.info("warehouse.column_added", table=f"{schema}.{column.table}", column=column.name)


def check_columns(cursor: Cursor, schema: str, *, maker: str | None = None) -> None:
    """Raises AuditLogsError if a table that is there lacks a column of ours. Others may stand beside them.

    With a maker, who opens the warehouse next: what `add_columns` adds as that role does not lack.
    """
    lacking = lacking_columns(cursor, schema)
    if maker is not None and lacking:
        owned = {
            row["relname"] for row in rows_of(cursor, _OWNED.format(schema=schema, maker=maker.replace("'", "''")))
        }
        lacking = [column for column in lacking if not (column.is_nullable and column.table in owned)]
    if lacking:
        table = lacking[0].table
        names = ", ".join(column.name for column in lacking if column.table == table)
        hint = "add what pipelines/warehouse/sql/tables.sql has, or set PG_SCHEMA to another schema"
        raise AuditLogsError(f"the table {schema}.{table} has no column {names}", hint=hint)
