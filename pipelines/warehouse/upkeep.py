"""The step after the load: indexes, views and TimescaleDB, done where the warehouse is not as the settings say.

Each step stands alone: one that fails is reported with its reason, and holds up neither the others nor the loads. A
step is due where the warehouse differs from what it should be; so nothing is done twice, and a changed setting works.
The SQL is `sql/after_load.sql`, a section a step.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.settings.settings import TimescaleSettings
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, EVENTS_TABLE, QUARANTINE_TABLE

from . import counts
from .connection import connect, message_of, quoted, rows_of, transaction_on, value_of
from .statements import sections_of

LARGE_TABLE_ROWS = 100_000
"""A larger table is left to `cloudflare-audit convert`: to rewrite or index it takes longer than a loop may wait."""
LOCK_TIMEOUT_SECONDS = 5
"""A step waits so long for the table: a wait for an exclusive lock holds up all queries behind it."""
OLDEST_COLUMNAR = "2.18.1"
"""TimescaleDB's oldest that may compress chunks: before it, `INSERT … ON CONFLICT DO NOTHING` ended at the first
conflict in one, without an error (timescaledb #7672, mended by #7673). Seen in 2.17.2; its beginning is unknown."""

_FILE = "after_load.sql"
_TABLES = (EVENTS_TABLE, f"{EVENTS_TABLE}_rehydrated")
_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names)
_ALL_VIEW, _ACTIVITY_VIEW, _SEEN_VIEW = "audit_logs_all", "audit_activity_hourly", "audit_seen_hourly"
_IS_OUR_ACTIVITY_VIEW = re.compile(rf"{_ACTIVITY_VIEW} [0-9a-f]{{16}}")
_UNKNOWN_FORM = {"42883", "22023"}
"""SQLSTATE of what an older TimescaleDB does not know: a function, an option."""
_LOCK_NOT_AVAILABLE = "55P03"


class Found(NamedTuple):
    """The state of the warehouse, as the sections `found` ask for it."""

    extension: str | None = None  # TimescaleDB's version in this database
    extension_schema: str | None = None
    is_available: bool = False  # on the server
    license: str | None = None  # None: its library is not loaded
    has_skip_scan: bool = True  # the server finds a value in an index that it is not the first column of
    is_owner: bool = True
    indexes: tuple[str, ...] = ()
    views: tuple[str, ...] = ()  # name and comment of each: the digest of what it was made from
    is_counting: bool = False  # triggers keep the counts by hour
    counted_from: str | None = None  # the hour from which on they have counted all; None: there are none
    chunk_days: float | None = None  # None: the table is a plain one
    is_columnar: bool = False
    compress_after_days: float | None = None
    retention_days: float | None = None
    is_continuous: bool = False  # the hourly activity is a continuous aggregate
    is_refreshed: bool = False  # by a policy

    @property
    def has_timescale(self) -> bool:
        """True if TimescaleDB can be used."""
        return self.extension is not None and self.license is not None

    @property
    def may_compress(self) -> bool:
        """True if its version loses nothing in compressed chunks."""
        found, oldest = (
            list(map(int, re.findall(r"\d+", text)[:3])) for text in (self.extension or "", OLDEST_COLUMNAR)
        )
        return found >= oldest

    @property
    def is_licensed(self) -> bool:
        """True if the table can have what the Apache edition has not: columnstore, policies, aggregates."""
        return self.chunk_days is not None and self.license == "timescale"

    @property
    def is_counted(self) -> bool:
        """True if the counts by hour are whole."""
        return self.is_counting and self.counted_from == counts.ALL_OF_TIME


class Step(NamedTuple):
    """One change of the warehouse: a section of the SQL file."""

    section: str
    takes_long: bool = False  # on a large table


_EXTENSION = Step("extension")
_COUNT = Step("count some events")


class Outcome(NamedTuple):
    """The result of a step."""

    step: str
    reason: str | None = None  # why it was not done; None: it was
    is_passing: bool = False  # the reason may pass soon


def prepare(
    owner: PostgresCredentials, schema: str, wanted: TimescaleSettings, *, reader: str, is_patient: bool = False
) -> Iterator[Outcome]:
    """Takes the steps that are due, and those that become due by them; each is tried once.

    The reader is the role that may read the views. If patient, large tables are rewritten and indexed, and locks are
    waited for, however long it takes. Raises adbc_driver_manager.Error if the server is down.
    """
    names = {"schema": schema, "reader": quoted(reader), "columns": _COLUMNS, **asdict(wanted)}
    definitions = {
        section: sha256("\n".join(statements).encode()).hexdigest()[:16]
        for section, statements in _sections(names).items()
    }
    with connect(owner) as connection:
        found = find(connection, schema)
        tried: set[Step] = set()
        while due := [step for step in due_steps(found, wanted, definitions) if step not in tried]:
            if not found.is_owner:
                reason = "the tables are another role's: PG_OWNER_USER may name it"
                yield Outcome(", ".join(step.section for step in due), reason)
                return
            for step in due:
                sections = _sections({**names, "definition": definitions[step.section]})
                # The server ends the session of CREATE EXTENSION where the library was not loaded at its start.
                with connect(owner) if step == _EXTENSION else nullcontext(connection) as used:
                    outcome = (
                        _count(connection, schema, is_patient=is_patient)
                        if step == _COUNT
                        else _take(used, schema, found, step, sections, is_patient=is_patient)
                    )
                yield outcome
                if outcome.is_passing:
                    return  # the holder of the lock holds up the other steps as well: one wait is long enough
            tried.update(due)
            found = find(connection, schema)
    yield from _out_of_reach(found, wanted)


def due_steps(found: Found, wanted: TimescaleSettings, definitions: Mapping[str, str]) -> Iterator[Step]:
    """The steps that the warehouse lacks, in the order in which they build on each other. Pure."""
    # A hypertable has an index for each chunk: its new ids do not go all over the history anyway.
    by_id = "month_event_id" if found.chunk_days is None and found.has_skip_scan else "event_id"
    for index in ("timestamp", "actor", "resource", "failure", by_id):
        if not {f"{table}_{index}" for table in _TABLES} <= set(found.indexes):
            yield Step(f"index {index}", takes_long=True)
    if f"{QUARANTINE_TABLE}_timestamp" not in found.indexes:
        yield Step("index quarantine")
    may_count = found.chunk_days is None and not (wanted.chunk_days and found.has_timescale)
    yield from _due_views(found, definitions, form=", counted" if may_count and found.is_counted else "")
    if found.counted_from is not None and not may_count:
        yield Step("no counts")
    if wanted.chunk_days and found.is_available and found.extension is None:
        yield _EXTENSION
    if wanted.chunk_days and found.has_timescale and found.chunk_days != wanted.chunk_days:
        yield Step("chunk interval") if found.chunk_days else Step("hypertable", takes_long=True)
    if found.is_licensed:
        yield from _due_policies(found, wanted)
    if may_count and not (found.is_counting and found.counted_from):
        yield Step("counts")
    elif may_count and not found.is_counted and f"{EVENTS_TABLE}_timestamp" in found.indexes:
        yield _COUNT  # the last step: it may hold up others


def _due_views(found: Found, definitions: Mapping[str, str], form: str) -> Iterator[Step]:
    forms = {_ALL_VIEW: "", _SEEN_VIEW: form}
    if not (found.is_licensed or found.is_continuous):
        forms[_ACTIVITY_VIEW] = form
    for view, its_form in forms.items():
        section = f"view {view}{its_form}"
        if f"{view} {definitions[section]}" not in found.views:
            yield Step(section)


def _due_policies(found: Found, wanted: TimescaleSettings) -> Iterator[Step]:
    compress_after_days = wanted.compress_after_days if found.may_compress else 0
    if compress_after_days and not found.is_columnar:
        yield Step("columnstore")
    if (found.compress_after_days or 0) != compress_after_days:
        yield Step("columnstore policy" if compress_after_days else "no columnstore policy")
    if (found.retention_days or 0) != wanted.retention_days:
        yield Step("retention policy" if wanted.retention_days else "no retention policy")
    if not found.is_continuous:
        if any(_IS_OUR_ACTIVITY_VIEW.fullmatch(view) for view in found.views):
            yield Step(f"no view {_ACTIVITY_VIEW}")
        yield Step("hourly aggregate")
    elif not found.is_refreshed:
        yield Step("refresh policy")


def _out_of_reach(found: Found, wanted: TimescaleSettings) -> Iterator[Outcome]:
    """The steps that the settings ask for, but this server does not offer."""
    if wanted.chunk_days and found.extension and found.license is None:
        yield Outcome("timescaledb", "its library is not loaded: set shared_preload_libraries and restart the server")
    if found.is_licensed and wanted.compress_after_days and not found.may_compress:
        reason = f"TimescaleDB {found.extension} loses events in it: {OLDEST_COLUMNAR} is the oldest that does not"
        yield Outcome("columnstore", reason)
    if found.chunk_days is not None and found.license not in {None, "timescale"}:
        reason = f"not with the licence {found.license}; cloudflare-audit retention deletes what is too old"
        yield Outcome("columnstore, policies, hourly aggregate", reason)


def find(connection: Connection, schema: str) -> Found:
    """The state of the warehouse, by the catalogs."""
    sections = sections_of(_FILE, schema=schema)
    with transaction_on(connection) as cursor:
        found = Found(**rows_of(cursor, *sections["found"])[0])
        if found.has_timescale:
            found = found._replace(**rows_of(cursor, *sections["found in timescaledb"])[0])
    return found


def _sections(names: dict[str, Any]) -> dict[str, list[str]]:
    return sections_of(_FILE, **names) | counts.sections(**names)


def _count(connection: Connection, schema: str, *, is_patient: bool) -> Outcome:
    try:
        since = counts.count_older_events(connection, schema, is_patient=is_patient)
    except Error as error:
        return Outcome(_COUNT.section, message_of(error), is_passing=error.sqlstate == _LOCK_NOT_AVAILABLE)
    reason = since and f"those before {since} are counted after the next loads"
    return Outcome(_COUNT.section, reason, is_passing=since is not None)


def _take(
    connection: Connection,
    schema: str,
    found: Found,
    step: Step,
    sections: Mapping[str, list[str]],
    *,
    is_patient: bool,
) -> Outcome:
    forms = [statements for title, statements in sections.items() if title.partition(", before")[0] == step.section]
    failures = list[Error]()
    for statements in forms:
        try:
            with transaction_on(connection) as cursor:
                look_where_timescale_is(cursor, found)
                if not is_patient:
                    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
                    if step.takes_long and any(_is_large(cursor, f"{schema}.{table}") for table in _TABLES):
                        reason = f"a table has more than {LARGE_TABLE_ROWS:,} rows: run cloudflare-audit convert"
                        return Outcome(step.section, reason)
                for statement in statements:
                    cursor.execute(statement)
                    if cursor.description:  # the driver raises the error of a SELECT only when that is fetched
                        cursor.fetch_arrow_table()
            return Outcome(step.section)
        except Error as error:
            failures.append(error)
            if error.sqlstate not in _UNKNOWN_FORM:
                break
    first = failures[0]  # an older form's failure says less
    return Outcome(step.section, message_of(first), is_passing=first.sqlstate == _LOCK_NOT_AVAILABLE)


def look_where_timescale_is(cursor: Cursor, found: Found) -> None:
    """Puts the schema of TimescaleDB's functions into the search path of the transaction."""
    if found.extension_schema is not None:
        cursor.execute(f"SET LOCAL search_path = {found.extension_schema}")


def _is_large(cursor: Cursor, table: str) -> bool:
    some = f"SELECT FROM {table} LIMIT {LARGE_TABLE_ROWS + 1}"
    return bool(value_of(cursor, f"SELECT count(*) > {LARGE_TABLE_ROWS} FROM ({some}) AS some_rows"))  # noqa: S608  # names are ours
