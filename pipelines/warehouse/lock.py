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

_TABLES = "tables of the audit pipeline"
_PID = "SELECT pg_backend_pid()"
_NAME, _SCHEMA = "l.classid::bigint", "l.objid::bigint"


def lock_keys(name: str, schema: str) -> str:
    """Both keys, as PostgreSQL's functions take them."""
    return f"hashtext('{name}'), hashtext('{schema}')"


def one_at_a_time(schema: str) -> str:
    """Makes a transaction wait for those that make tables there: two that find nothing would both make them."""
    return f"SELECT pg_advisory_xact_lock({lock_keys(_TABLES, schema)}) IS NULL AS is_waiting"


def holders_sql(schema: str, *, among: Collection[str] = (), but: Collection[str] = ()) -> str:
    """Asks who holds the writers' locks (among these names; but none of those): `program`, and `holder` in words."""
    chosen = f"AND {_NAME} IN ({_listed(among)})" if among else ""
    return f"""
        SELECT a.application_name AS program, concat_ws(' ', nullif(a.application_name, ''),
            'from', coalesce(host(a.client_addr), 'this host'),
            'since', to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), '(server process ' || a.pid || ')') AS holder
        FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) JOIN pg_database AS d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
            AND {_SCHEMA} = {_number(schema)} AND {_NAME} NOT IN ({_listed({_TABLES, *but})}) {chosen}
        ORDER BY holder"""  # noqa: S608  # names are ours


def is_held_sql(name: str, schema: str, pid: int) -> str:
    """True if the statement runs in the session of that process, and that session holds the lock."""
    return f"""pg_backend_pid() = {pid} AND EXISTS (
        SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted AND l.pid = {pid}
            AND {_NAME} = {_number(name)} AND {_SCHEMA} = {_number(schema)})"""  # names are ours


def refuse_pooling(connection: Connection, credentials: PostgresCredentials) -> None:
    """Checks that a session, and so a lock, lasts as long as its connection, which is not in autocommit mode.

    A pool of transactions gives one server session to two connections that are open side by side.

    Raises:
        AuditLogsError: each transaction may get another session.
    """
    before = _session_of(connection)
    with closing(connect_psycopg2(credentials)) as other, other.cursor() as cursor:
        cursor.execute(_PID)
        (others,) = cursor.fetchone()
    if before == others or before != _session_of(connection):
        # The pool's next client would get the session with what was set in it.
        with suppress(Error), connection.cursor() as cursor:
            connection.adbc_connection.set_autocommit(enabled=True)
            cursor.execute("DISCARD ALL")
        raise pooled()


def pooled() -> AuditLogsError:
    """The error for a server where locks of a session do not last."""
    return AuditLogsError(
        "the warehouse is behind a pool of transactions, where no session and no lock of one lasts",
        hint="let PG_HOST and PG_PORT lead to the server itself, or to a pool of sessions (pool_mode = session)",
    )


def _session_of(connection: Connection) -> int:
    with transaction_on(connection) as cursor:
        return int(value_of(cursor, _PID))


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(_number, sorted(names)))


def _number(name: str) -> str:
    return f"(hashtext('{name}')::bigint & 4294967295)"  # as pg_locks shows it
