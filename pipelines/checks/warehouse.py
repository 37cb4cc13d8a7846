"""The doctor's checks of the warehouse, from its catalogs and the newest events. Makes no table, takes no lock."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import adbc_driver_manager

from pipelines.host.side_by_side import STATEMENT_TIMEOUT_SQL
from pipelines.load.store import client_of
from pipelines.proof.gaps import MOST_SHOWN, repairs_of, summary_of
from pipelines.settings.settings import OwnerSettings, Settings, TimescaleSettings
from pipelines.warehouse.connection import Credentials, as_owner, connect, message_of, transaction_on
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import server_if_there
from pipelines.warehouse.lock import refuse_pooling
from pipelines.warehouse.measured_lag import is_too_short, recommended_seconds, too_little
from pipelines.warehouse.status import WarehouseHealth
from pipelines.warehouse.upkeep import Found
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .finding import Finding, Result, failed, finding_of, skipped


class Subject(NamedTuple):
    """A warehouse that can be reached."""

    settings: Settings
    credentials: Credentials
    user: str
    """The role that loads, as the server knows it: a pooler may know it as `role.project`."""
    schema: str
    owner: OwnerSettings | None
    health: WarehouseHealth


def check_warehouse(settings: Settings) -> Iterator[Finding]:
    """Findings of all sides of a warehouse that can be reached. An embedded one runs as long as it is checked."""
    stores, warehouse = settings.stores, Warehouse.of(settings.stores)
    with ExitStack() as stack:
        try:
            if stack.enter_context(server_if_there(stores)) is None:
                found = f"an embedded PostgreSQL, which the first start makes in {stores.postgres_dir}"
                yield Finding("ok", "warehouse", found)
                return
            credentials, schema = client_of(warehouse).config.credentials, stores.postgres_schema
            with warehouse.translated_errors():
                connection = stack.enter_context(connect(credentials))
                with transaction_on(connection) as cursor:
                    cursor.execute(STATEMENT_TIMEOUT_SQL)
                health = WarehouseHealth(connection, schema)
                subject = Subject(settings, credentials, health.user, schema, stores.postgres_owner, health)
        except (AuditLogsError, OSError) as error:
            yield failed("warehouse", error)
            return
        yield Finding("ok", "warehouse", f"login as {subject.user} works")
        yield from _check(warehouse, subject)


def _check(warehouse: Warehouse, subject: Subject) -> Iterator[Finding]:
    def look(check: Callable[[Subject], Result]) -> Result:
        with warehouse.translated_errors():
            return check(subject)

    failures = dict[str, str]()
    for name, check in CHECKS.items():
        needed = NEEDS.get(name, "")
        if needed in failures:
            finding, failures[name] = skipped(name, [failures[needed]]), failures[needed]
        else:
            finding = finding_of(name, partial(look, check))
        if finding.status == "fail":
            failures[name] = name
        yield finding


def _pooling(subject: Subject) -> Result:
    """A session lasts, as the writer's lock needs it."""
    refuse_pooling(subject.health.connection, subject.credentials)
    return "a session lasts as long as its connection"


def _owner(subject: Subject) -> Result:
    """The role that makes the tables, where it is another one, can log in as well."""
    if subject.owner is None:
        return f"{subject.user} makes the tables, unless they are there"
    try:
        connect(as_owner(subject.credentials, subject.owner)).close()
    except adbc_driver_manager.Error as error:
        return Finding("fail", "owner", message_of(error), "check PG_OWNER_USER and PG_OWNER_PASSWORD")
    return f"login as {subject.owner.user} works"


def _rights(subject: Subject) -> Result:
    """The loading role reads and inserts, or the tables can be made; dlt's own it makes itself."""
    maker = subject.user
    if subject.owner:
        with connect(as_owner(subject.credentials, subject.owner)) as connection:
            maker = WarehouseHealth(connection, subject.schema).user
    has_tables = subject.health.check_rights(maker)
    return f"{subject.user} may {'read and insert' if has_tables else 'have the tables made'}"


def _key(subject: Subject) -> Result:
    """The table's key is ours, so that an event is there once; and so are its columns."""
    if not subject.health.check_table(subject.owner.user if subject.owner else subject.user):
        return f"no table {subject.schema}.audit_logs yet: the first start makes it"
    return f"{subject.schema}.audit_logs has the one that it should"


def _timescale(subject: Subject) -> Result:
    return timescale_finding(subject.health.check_timescale(), subject.settings.stores.timescale)


def timescale_finding(found: Found, wanted: TimescaleSettings) -> Finding:
    """The finding about a server's TimescaleDB, against the settings. Pure."""
    version = f"{found.extension}, licence {found.license}"
    if not wanted.chunk_days:
        return Finding("ok", "timescaledb", "not asked for (TIMESCALE_CHUNK_DAYS=0)")
    if found.extension is None:
        there = "the first load makes it" if found.is_available else "this server has none, the tables are plain ones"
        return Finding("ok", "timescaledb", there)
    if found.license is None:
        hint = "set shared_preload_libraries = 'timescaledb' and restart the server"
        return Finding("warn", "timescaledb", f"{found.extension}, but its library is not loaded", hint)
    if found.license != "timescale":
        hint = "cloudflare-audit retention deletes what is too old"
        return Finding("warn", "timescaledb", f"{version}: no columnstore, no policies", hint)
    table = "a plain table yet" if found.chunk_days is None else f"chunks of {found.chunk_days:g} days"
    return Finding("ok", "timescaledb", f"{version}, {table}")


def _writer(subject: Subject) -> Result:
    """Names the holders of the warehouse's lock or, of shards, the locks; on whatever host."""
    holders = subject.health.writers()
    return f"loaded by {', '.join(holders)}; a second one would be refused" if holders else "nobody loads it now"


def _lag(subject: Subject) -> Result:
    """Compares the safety lag with how long events took to come."""
    settings, health = subject.settings, subject.health
    lags = {stream: settings.safety_lag(stream) for stream in settings.streams}
    shown = " to ".join(dict.fromkeys(f"{end(lags.values()).total_seconds():g} s" for end in (min, max)))
    if not health.has_events:
        return f"{shown}; nothing was measured yet"
    measured = {stream: health.lag(stream, lag.total_seconds()) for stream, lag in lags.items()}
    wanted = recommended_seconds(measured.values())
    events = sum(lag.events for lag in measured.values())
    if wanted is None:
        return f"{shown}; {too_little(events)}"
    longest = max(lag.nearly_all for lag in measured.values())
    found = f"{shown}; 99.9 % of {events:,} events came within {longest:.0f} s"
    short = sorted({stream.account_id for stream, lag in lags.items() if is_too_short(lag, measured[stream])})
    if not short:
        return found
    hint = f"set CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS to {wanted} for {', '.join(short):.200}"
    return Finding("warn", "safety lag", found, hint)


def _gaps(subject: Subject) -> Result:
    """Hours that a comparison found wrong and none has found right since."""
    if not subject.health.has_events:
        return "nothing was compared yet"
    gaps = subject.health.open_gaps()
    if not gaps:
        return "no hour that was compared has one"
    repairs = repairs_of(gaps, subject.settings.accounts.__contains__)
    left = len(repairs) - MOST_SHOWN
    more = f"; then {left} more: cloudflare-audit status --json" if left > 0 else ""
    return Finding("fail", "gaps", summary_of(gaps), "; ".join(one.command for one in repairs[:MOST_SHOWN]) + more)


CHECKS: dict[str, Callable[[Subject], Result]] = {
    "postgresql": lambda subject: subject.health.check_version(),
    "encoding": lambda subject: subject.health.check_encoding(),
    "pooling": _pooling,
    "owner": _owner,
    "rights": _rights,
    "key": _key,
    "timescaledb": _timescale,
    "writer": _writer,
    "safety lag": _lag,
    "gaps": _gaps,
}
WAREHOUSE_CHECKS = ("warehouse", *CHECKS)
NEEDS = {"rights": "owner", "key": "rights", "safety lag": "key", "gaps": "key"}
"""The check that has to succeed before another one can be made; the others stand alone."""
