"""The advisory locks of a warehouse: a writer's for each pipeline that loads it, and who holds them.

A lock has two keys, a name's and the schema's, and ends with its session. PostgreSQL lists them for everyone.
"""

from collections.abc import Collection
from contextlib import closing, suppress

from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from sources.cloudflare_audit_logs.errors import AuditLogsError

from .connection import connect_psycopg2, transaction_on, value_of

TABLES = "tables of the audit pipeline"
"""The name of the lock that those take who make tables, for the length of a transaction."""


def lock_keys(name: str, schema: str) -> str:
    """Both keys, as PostgreSQL's functions take them."""
    return f"hashtext('{name}'), hashtext('{schema}')"


def holders_sql(schema: str, *, among: Collection[str] = (), but: Collection[str] = ()) -> str:
    """Asks who holds the writers' locks (among these names; but none of those): `program`, and `holder` in words."""
    chosen = f"AND {_KEY} IN ({_keys(among)})" if among else ""
    return f"""
        SELECT a.application_name AS program, concat_ws(' ', nullif(a.application_name, ''),
            'from', coalesce(host(a.client_addr), 'this host'),
            'since', to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), '(server process ' || a.pid || ')') AS holder
        FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) JOIN pg_database AS d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
            AND l.objid::bigint = {_number(schema)} AND {_KEY} NOT IN ({_keys({TABLES, *but})}) {chosen}
        ORDER BY holder"""  # noqa: S608  # names are ours


def is_held_sql(name: str, schema: str, pid: int) -> str:
    """True if the statement runs in the session of that process, and that session holds the lock."""
    return f"""pg_backend_pid() = {pid} AND EXISTS (
        SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted AND l.pid = {pid}
            AND {_KEY} = {_number(name)} AND l.objid::bigint = {_number(schema)})"""  # names are ours


def refuse_pooling(connection: Connection, credentials: PostgresCredentials) -> None:
    """Sees whether each transaction may get another session: a lock of a session would mean nothing then.

    A pool of transactions gives one server session to two connections that are open side by side. The connection is
    not in autocommit mode.

    Raises:
        AuditLogsError: it does.
    """
    before = _session_of(connection)
    with closing(connect_psycopg2(credentials)) as other, other.cursor() as cursor:
        cursor.execute(_PID)
        (others,) = cursor.fetchone()
    if before == others or before != _session_of(connection):
        _leave_as_found(connection)
        raise pooled()


def pooled() -> AuditLogsError:
    """Says that locks of a session do not hold here."""
    return AuditLogsError(
        "the warehouse is behind a pool of transactions, where no session and no lock of one lasts",
        hint="let PG_HOST and PG_PORT lead to the server itself, or to a pool of sessions (pool_mode = session)",
    )


def _leave_as_found(connection: Connection) -> None:
    """Takes back what was set: the next one whom the pool gives this session to would have it."""
    with suppress(Error), connection.cursor() as cursor:
        connection.adbc_connection.set_autocommit(enabled=True)
        cursor.execute("DISCARD ALL")


def _session_of(connection: Connection) -> int:
    with transaction_on(connection) as cursor:
        return int(value_of(cursor, _PID))


_PID = "SELECT pg_backend_pid()"
_KEY = "l.classid::bigint"


def _keys(names: Collection[str]) -> str:
    return ", ".join(map(_number, sorted(names)))


def _number(name: str) -> str:
    return f"(hashtext('{name}')::bigint & 4294967295)"  # as pg_locks shows it
