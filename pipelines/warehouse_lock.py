"""The advisory locks of a warehouse: a writer's for each pipeline that loads it, and who holds them.

A lock has two keys, a name's and the schema's, and ends with its session. PostgreSQL lists them for everyone.
"""

from collections.abc import Collection

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


_KEY = "l.classid::bigint"


def _keys(names: Collection[str]) -> str:
    return ", ".join(map(_number, sorted(names)))


def _number(name: str) -> str:
    return f"(hashtext('{name}')::bigint & 4294967295)"  # as pg_locks shows it
