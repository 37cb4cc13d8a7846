"""Says whether a PostgreSQL server, database and TimescaleDB are ones that are served. Asks; changes nothing."""

from adbc_driver_manager.dbapi import Cursor

from sources.cloudflare_audit_logs.errors import AuditLogsError

from .connection import rows_of
from .upkeep import OLDEST_COLUMNAR, Found

OLDEST_POSTGRESQL = 12
"""`date_trunc` takes a time zone from there on. All of the job was run on 12.17; 11.22 lacks a view."""

_TWO_PARTS = 100_000
"""Before 10, versions had three: 90624 is 9.6.24."""


VERSION_SQL = "SELECT current_setting('server_version_num')::int"


def check_version(number: int) -> str:
    """Returns PostgreSQL's version as people write it, of its `server_version_num`.

    Raises:
        AuditLogsError: it is too old.
    """
    version = f"{number // 10_000}.{number % 10_000 // (1 if number >= _TWO_PARTS else 100)}"
    if number < OLDEST_POSTGRESQL * 10_000:
        hint = f"{OLDEST_POSTGRESQL} is the oldest that works: upgrade it, or set PG_HOST to another server"
        raise AuditLogsError(f"PostgreSQL {version} is too old", hint=hint)
    return version


def check_encoding(cursor: Cursor) -> str:
    """Returns the database's encoding.

    Raises:
        AuditLogsError: it is not UTF8, which alone holds every event: LATIN1 stored `josé` as `josÃ©`.
    """
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
    return str(found["server"])


def check_timescale(found: Found) -> None:
    """Raises if the table is compressed by a TimescaleDB that loses events there."""
    if found.is_columnar and not found.may_compress:
        hint = f"ALTER EXTENSION timescaledb UPDATE: {OLDEST_COLUMNAR} is the oldest for a compressed table"
        raise AuditLogsError(f"TimescaleDB {found.extension} loses events in compressed chunks", hint=hint)
