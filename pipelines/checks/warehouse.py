"""The doctor's checks of the warehouse, from its catalogs and the newest events. Makes no table, takes no lock."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import adbc_driver_manager
from adbc_driver_manager.dbapi import Connection

from pipelines.host.side_by_side import STATEMENT_TIMEOUT_SQL
from pipelines.load.store import client_of
from pipelines.proof.gaps import MOST_SHOWN, repairs_of, summary_of
from pipelines.settings.settings import Settings, TimescaleSettings
from pipelines.warehouse.columns import check_columns
from pipelines.warehouse.connection import as_owner, connect, message_of, rows_of, transaction_on, value_of
from pipelines.warehouse.destination import Warehouse, WarehouseClient
from pipelines.warehouse.embedded import server_if_there
from pipelines.warehouse.lock import holders_sql, refuse_pooling
from pipelines.warehouse.measured_lag import is_too_short, recommended_seconds, too_little
from pipelines.warehouse.server_check import VERSION_SQL, check_encoding, check_timescale, check_version
from pipelines.warehouse.setup import check_key, check_rights, missing_table
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.status import WarehouseHealth
from pipelines.warehouse.upkeep import Found, find
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .finding import Finding, failed, guarded, ok


class Subject(NamedTuple):
    """What the checks look at."""

    settings: Settings
    client: WarehouseClient
    connection: Connection
    user: str
    """The role that loads, as the server knows it: a pooler may be told `role.project`."""

    @property
    def schema(self) -> str:
        """Where the tables are, or will be."""
        return self.settings.stores.postgres_schema

    @property
    def health(self) -> WarehouseHealth:
        """What it says of itself."""
        return WarehouseHealth(self.connection, self.schema)


def check_warehouse(settings: Settings, stack: ExitStack) -> Iterator[Finding]:
    """One that can be reached is looked at from all sides; an embedded one runs as long as the stack."""
    stores = settings.stores
    warehouse = Warehouse.of(stores)
    try:
        if stack.enter_context(server_if_there(stores)) is None:
            yield ok("warehouse", f"an embedded PostgreSQL, which the first start makes in {stores.postgres_dir}")
            return
        client: WarehouseClient = client_of(warehouse)
        with warehouse.translated_errors():
            connection = stack.enter_context(connect(client.config.credentials))
            with transaction_on(connection) as cursor:
                cursor.execute(STATEMENT_TIMEOUT_SQL)
            user = _user_of(connection)
    except (AuditLogsError, OSError) as error:
        yield failed("warehouse", error)
        return
    subject = Subject(settings, client, connection, user)
    yield ok("warehouse", f"login as {subject.user} works")
    failed_ones = set()
    for name, check in CHECKS.items():
        if NEEDS.get(name) in failed_ones:
            failed_ones.add(name)
            continue
        finding = guarded(name, partial(_translated, warehouse, partial(check, subject)))
        if finding.status == "fail":
            failed_ones.add(name)
        yield finding


def _translated(warehouse: Warehouse, check: Callable[[], Finding]) -> Finding:
    with warehouse.translated_errors():
        return check()


def _user_of(connection: Connection) -> str:
    with transaction_on(connection) as cursor:
        return str(value_of(cursor, "SELECT current_user::text"))


def _version(subject: Subject) -> Finding:
    """PostgreSQL's, which may be too old."""
    with transaction_on(subject.connection) as cursor:
        return ok("postgresql", check_version(value_of(cursor, VERSION_SQL)))


def _encoding(subject: Subject) -> Finding:
    """UTF8 alone holds every event."""
    with transaction_on(subject.connection) as cursor:
        return ok("encoding", check_encoding(cursor))


def _pooling(subject: Subject) -> Finding:
    """A session that lasts, as the writer's lock needs it."""
    refuse_pooling(subject.connection, subject.client.config.credentials)
    return ok("pooling", "a session lasts as long as its connection")


def _owner(subject: Subject) -> Finding:
    """The role that makes the tables, where it is another one, can log in as well."""
    owner = subject.settings.stores.postgres_owner
    if owner is None:
        return ok("owner", f"{subject.user} makes the tables, unless they are there")
    try:
        connect(as_owner(subject.client.config.credentials, owner)).close()
    except adbc_driver_manager.Error as error:
        return Finding("fail", "owner", message_of(error), "check PG_OWNER_USER and PG_OWNER_PASSWORD")
    return ok("owner", f"login as {owner.user} works")


def _rights(subject: Subject) -> Finding:
    """The loading role reads and inserts, or the tables can be made; dlt's own it makes itself."""
    owner = subject.settings.stores.postgres_owner
    maker = subject.user
    if owner:
        with connect(as_owner(subject.client.config.credentials, owner)) as connection:
            maker = _user_of(connection)
    sections = sections_of("health.sql", schema=subject.schema, maker=maker.replace("'", "''"))
    with transaction_on(subject.connection) as cursor:
        (tables,), (may,) = rows_of(cursor, *sections["tables"]), rows_of(cursor, *sections["rights"])
        if tables["events"]:
            check_rights(cursor, subject.schema, subject.user, may_make=may["may_make_tables"])
        elif not may["may_make_tables"]:
            raise missing_table(f"{subject.schema}.audit_logs", maker)
    if not tables["loads"] and not may["may_make_own"] and (tables["events"] or owner is None):
        hint = "GRANT it what pipelines/warehouse/sql/grants.sql says"
        raise AuditLogsError(f"{subject.user} may not make dlt's tables in {subject.schema}", hint=hint)
    return ok("rights", f"{subject.user} may {'read and insert' if tables['events'] else 'have the tables made'}")


def _key(subject: Subject) -> Finding:
    """Ours, so that an event is there once, in a table with our columns."""
    if not subject.health.has_events:
        return ok("key", f"no table {subject.schema}.audit_logs yet: the first start makes it")
    owner = subject.settings.stores.postgres_owner
    with transaction_on(subject.connection) as cursor:
        check_key(cursor, subject.schema)
        check_columns(cursor, subject.schema, maker=owner.user if owner else subject.user)
    return ok("key", f"{subject.schema}.audit_logs has the one that it should")


def _timescale(subject: Subject) -> Finding:
    """What there is of it, against what the settings ask for."""
    found = find(subject.connection, subject.schema)
    check_timescale(found)
    return timescale_finding(found, subject.settings.stores.timescale)


def timescale_finding(found: Found, wanted: TimescaleSettings) -> Finding:
    """What to say of a server. Pure."""
    if not wanted.chunk_days:
        return ok("timescaledb", "not asked for (TIMESCALE_CHUNK_DAYS=0)")
    if found.extension is None:
        there = "the first load makes it" if found.is_available else "this server has none, the tables are plain ones"
        return ok("timescaledb", there)
    if found.license is None:
        hint = "set shared_preload_libraries = 'timescaledb' and restart the server"
        return Finding("warn", "timescaledb", f"{found.extension}, but its library is not loaded", hint)
    if found.license != "timescale":
        hint = "pipelines/retention.py deletes what is too old"
        return Finding(
            "warn", "timescaledb", f"{found.extension}, licence {found.license}: no columnstore, no policies", hint
        )
    table = "a plain table yet" if found.chunk_days is None else f"chunks of {found.chunk_days:g} days"
    return ok("timescaledb", f"{found.extension}, licence {found.license}, {table}")


def _writer(subject: Subject) -> Finding:
    """Who holds the warehouse's lock or, of shards, the locks; on whatever host."""
    with transaction_on(subject.connection) as cursor:
        holders = [row["holder"] for row in rows_of(cursor, holders_sql(subject.schema))]
    found = f"loaded by {', '.join(holders)}; a second one would be refused" if holders else "nobody loads it now"
    return ok("writer", found)


def _lag(subject: Subject) -> Finding:
    """The safety lag against how long events took to come."""
    settings, health = subject.settings, subject.health
    lags = {stream: settings.safety_lag(stream) for stream in settings.streams}
    shown = " to ".join(dict.fromkeys(f"{end(lags.values()).total_seconds():g} s" for end in (min, max)))
    if not health.has_events:
        return ok("safety lag", f"{shown}; nothing was measured yet")
    measured = {stream: health.lag(stream, lag.total_seconds()) for stream, lag in lags.items()}
    wanted = recommended_seconds(measured.values())
    events = sum(lag.events for lag in measured.values())
    if wanted is None:
        return ok("safety lag", f"{shown}; {too_little(events)}")
    longest = max(lag.nearly_all for lag in measured.values())
    found = f"{shown}; 99.9 % of {events:,} events came within {longest:.0f} s"
    short = sorted({stream.account_id for stream, lag in lags.items() if is_too_short(lag, measured[stream])})
    if short:
        hint = f"set CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS to {wanted} for {', '.join(short):.200}"
        return Finding("warn", "safety lag", found, hint)
    return ok("safety lag", found)


def _gaps(subject: Subject) -> Finding:
    """Hours that a comparison found wrong and none has found right since."""
    if not subject.health.has_events:
        return ok("gaps", "nothing was compared yet")
    gaps = subject.health.open_gaps()
    if not gaps:
        return ok("gaps", "no hour that was compared has one")
    repairs = repairs_of(gaps, subject.settings.accounts.__contains__)
    more = f"; then {len(repairs) - MOST_SHOWN} more: pipelines/status.py --json" if len(repairs) > MOST_SHOWN else ""
    return Finding("fail", "gaps", summary_of(gaps), "; ".join(one.command for one in repairs[:MOST_SHOWN]) + more)


CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "postgresql": _version,
    "encoding": _encoding,
    "pooling": _pooling,
    "owner": _owner,
    "rights": _rights,
    "key": _key,
    "timescaledb": _timescale,
    "writer": _writer,
    "safety lag": _lag,
    "gaps": _gaps,
}
NEEDS = {"rights": "owner", "key": "rights", "safety lag": "key", "gaps": "key"}
"""What cannot be looked at where that fails; the others stand alone."""
