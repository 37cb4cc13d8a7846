"""Makes the warehouse's tables before the first load, or checks them where they are another role's. Safe to repeat."""

from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.host.logs import log
from pipelines.settings.settings import OwnerSettings
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_TABLE

from .columns import add_columns, check_columns
from .connection import INSUFFICIENT_PRIVILEGE, as_owner, quoted, transaction, transaction_on, value_of
from .lock import TABLES, lock_keys
from .server_check import VERSION_SQL, check_encoding, check_timescale, check_version
from .statements import statements_of
from .upkeep import find

_STATE_TABLE = "_dlt_pipeline_state"


def set_up(connection: Connection, credentials: PostgresCredentials, owner: OwnerSettings | None, schema: str) -> None:
    """Makes what is missing, as the owner if there is one, and grants the loading role what it needs.

    The connection is that of the loading role, and not in autocommit mode.

    A role that owns nothing alters nothing: then the tables are looked at, and used as they are.

    Raises:
        AuditLogsError: they are missing, may not be written, or have another key; or the server is not served.
        adbc_driver_manager.Error: the server is down.
    """
    with transaction_on(connection) as cursor:
        check_version(value_of(cursor, VERSION_SQL))
        check_encoding(cursor)
        user = value_of(cursor, "SELECT current_user::text")
        _check_name(cursor, schema)
        _forget_state_without_events(cursor, schema)
    check_timescale(find(connection, schema))
    _make_tables(connection, credentials, owner, schema, user)
    with transaction_on(connection) as cursor:
        check_rights(cursor, schema, user)
        check_key(cursor, schema)
        check_columns(cursor, schema)


def one_at_a_time(schema: str) -> str:
    """Makes a transaction wait for those that make tables there: two that find nothing would both make them."""
    return f"SELECT pg_advisory_xact_lock({lock_keys(TABLES, schema)}) IS NULL AS is_waiting"


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
            add_columns(cursor, schema)
    except Error as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE or owner is not None:
            raise
        log.info("warehouse.not_owned", user=user, schema=schema)


def _check_name(cursor: Cursor, schema: str) -> None:
    if value_of(cursor, f"SELECT quote_ident('{schema}')") != schema:
        raise AuditLogsError(f"PG_SCHEMA={schema} is a word of SQL", hint="choose another name for the schema")


def _forget_state_without_events(cursor: Cursor, schema: str) -> None:
    """Where someone has dropped the events, the cursor that says how far they went must go, too."""
    names = value_of(cursor, f"SELECT array_agg(tablename) FROM pg_tables WHERE schemaname = '{schema}'") or []  # noqa: S608  # names are ours
    if _STATE_TABLE in names and EVENTS_TABLE not in names:
        cursor.execute(f"DELETE FROM {schema}.{_STATE_TABLE}")  # noqa: S608  # names are ours
        log.warning("warehouse.dropped", schema=schema, hint="its events are read again, as at a first start")


def missing_table(table: str, user: str) -> AuditLogsError:
    """What is said where a table is not there and cannot be made."""
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
        if may_use is None and may_make:
            continue
        if may_use is None:
            raise missing_table(f"{schema}.{table}", user)
        if not may_use:
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
