"""The pipeline's health: of each destination its cursors, last loads and quarantine; of both, what was compared."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

import duckdb
from dlt.common.destination.exceptions import DestinationUndefinedEntity

from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.destination import Lake
from pipelines.lake.dlt_client import LakeClient
from pipelines.lake.reads import read_lake
from pipelines.load.store import client_of, positions_of
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import QUARANTINE_TABLE

from . import charts
from .ask.conditions import Filters
from .ask.deadline import Deadline
from .ask.sessions import told
from .ask.stores import Row, WarehouseStore, answer_of_lake
from .look import Look, Shown, Table

_LOADS = 5
_LAST_LOADS = f"SELECT inserted_at AS at FROM {{schema}}._dlt_loads WHERE status = 0 ORDER BY 1 DESC LIMIT {_LOADS}"
_QUARANTINED = """
    SELECT account_id, api_version, reason, count(*) AS events, max(received_at) AS latest FROM {table}
    GROUP BY 1, 2, 3 ORDER BY 5 DESC LIMIT 50"""
_CHECKS = """
    SELECT DISTINCT ON (account_id, api_version, hour) account_id, api_version, hour, status, checked_at, api_events,
        warehouse_events, lake_events, missing_in_warehouse, missing_in_lake, doubled_in_lake, differing
    FROM {schema}.audit_completeness
    WHERE hour >= $1 AND hour < $2 AND ($3 = '' OR account_id = ANY(string_to_array($3, ' ')))
        AND ($4 = '' OR api_version = $4)
    ORDER BY account_id, api_version, hour, checked_at DESC"""
_SEALED = """
    WITH sealed AS (
        SELECT account_id, count(DISTINCT hour) AS hours, min(hour) AS first, max(hour) AS newest_hour,
            max(sealed_at) AS newest_seal FROM {schema}.audit_seals
        WHERE kind = 'hour' AND hour < $2 AND ($3 = '' OR account_id = ANY(string_to_array($3, ' '))) AND hour >= $1
        GROUP BY 1)
    SELECT account_id AS account, hours, newest_hour, newest_seal,
        floor(extract(epoch FROM greatest(least($2, $4), newest_hour + interval '1h') - first) / 3600)::bigint - hours
            AS unsealed
    FROM sealed ORDER BY 1"""
_MAY_ASK_SEALS = "SELECT has_table_privilege(to_regclass('{schema}.audit_seals'), 'SELECT') AS may"
_SEALING_TAKES = timedelta(hours=2)
"""An hour that ended so long ago is sealed, if it was read: SEAL_AFTER_MINUTES is an hour, then there is the lag."""

_GAP = {
    "hour": "Hour (UTC)",
    "account": "Account",
    "version": "API",
    "api_events": "API has",
    "warehouse_events": "Warehouse has",
    "lake_events": "Lake has",
    "missing_in_warehouse": "Missing in warehouse",
    "missing_in_lake": "Missing in lake",
    "doubled_in_lake": "Doubled in lake",
    "differing": "Differing",
}


_SEALS = {
    "account": "Account",
    "hours": "Sealed hours",
    "newest_hour": "Newest sealed hour (UTC)",
    "newest_seal": "Newest seal (UTC)",
    "unsealed": "Closed and not sealed",
}


class Health(NamedTuple):
    """A destination's account of itself."""

    cursors: dict[str, datetime]
    """By stream: `v1 <account>`."""
    loads: list[datetime]
    """The newest ones, newest first."""
    quarantined: list[Row]


def warehouse_health(store: WarehouseStore, deadline: Deadline | None = None) -> Health:
    """The warehouse's; raises as a question would."""
    asked = _QUARANTINED.replace("{table}", f"{{schema}}.{QUARANTINE_TABLE}")
    with store.sessions.session(deadline) as session:
        loads = [row["at"] for row in session.rows(_LAST_LOADS, deadline=deadline)]
        quarantined = session.rows(asked, deadline=deadline)
        return Health(cursors_of(session.states()), loads, quarantined)


def lake_health() -> Health:
    """The lake's; raises as a question would."""
    lake = Lake()
    with told(), read_lake() as reader, lake.translated_errors():
        client: LakeClient = client_of(lake)
        states, markers = client.stored_states(), _markers(client)
        has_quarantine = reader.objects.is_there(QUARANTINE_TABLE)
    asked = _QUARANTINED.replace("{table}", f"{QUARANTINE_TABLE}()")

    def quarantined_events(database: duckdb.DuckDBPyConnection, _: LakeFiles) -> list[Row]:
        rows: list[Row] = database.sql(asked).to_arrow_table().to_pylist()
        return rows

    quarantined = answer_of_lake(quarantined_events) if has_quarantine else []
    return Health(cursors_of(states), _times_of(markers), quarantined)


def _markers(client: LakeClient) -> list[str]:
    try:
        return client.load_markers()
    except DestinationUndefinedEntity:  # a lake that was only ever filled beside the loop
        return []


def checks(store: WarehouseStore, filters: Filters, deadline: Deadline) -> list[Row]:
    """The newest comparison of each hour, account and version of the window."""
    parameters = (filters.since, filters.before, " ".join(filters.accounts), filters.version)
    with store.sessions.session(deadline) as session:
        return session.rows(_CHECKS, *parameters, deadline=deadline)


def sealed_hours(store: WarehouseStore, filters: Filters, now: datetime, deadline: Deadline) -> list[Row]:
    """By account, the sealed hours of the window, and those since its first one that are closed and have no seal.

    As the copy of the seals in the warehouse has it: pipelines/verify.py alone proves it.
    """
    parameters = (filters.since, filters.before, " ".join(filters.accounts), now - _SEALING_TAKES)
    with store.sessions.session(deadline) as session:
        (found,) = session.rows(_MAY_ASK_SEALS, deadline=deadline)  # a warehouse of an older release has no such table
        return session.rows(_SEALED, *parameters, deadline=deadline) if found["may"] else []


def cursors_of(states: Sequence[Any]) -> dict[str, datetime]:
    """By stream, the newest event time that counts as loaded, whatever shard has loaded it."""
    return {f"{s.api_version} {s.account_id}": position.cursor for s, position in positions_of(*states).items()}


def _times_of(markers: list[str]) -> list[datetime]:
    """A load's id is the second it began, and its marker's name has it: `<schema>__<load id>.jsonl`."""
    ids = [marker.rpartition("__")[2].removesuffix(".jsonl") for marker in reversed(markers[-_LOADS:])]
    return [datetime.fromtimestamp(float(load_id), UTC) for load_id in ids]


def completeness(look: Look) -> Shown:
    """The hours that were compared, by account and version, those with gaps first, and what is missing where."""
    rows = [
        {**row, "account": row["account_id"], "version": row["api_version"]}
        for row in checks(look.warehouse, look.view.filters, look.deadline)
    ]
    gaps = Table("gaps", _GAP, [row for row in rows if row["status"] == "gap"], "No hour has a gap.", title="Gaps")
    streams = [(key, list(its)) for key, its in groupby(rows, key=lambda row: (row["account"], row["version"]))]
    streams.sort(key=lambda stream: all(row["status"] != "gap" for row in stream[1]))
    sealed = sealed_hours(look.warehouse, look.view.filters, look.now, look.deadline)
    nothing = "No hour of this time is sealed: docs/evidence/seals.md."
    seals = Table(
        "seals", _SEALS, sealed, nothing, title="Seals", remark="as the warehouse has them: verify.py proves it"
    )
    more = {"streams": [(*key, charts.calendar(its, look.view)) for key, its in streams], "seals": seals}
    return Shown((*([gaps] if rows else []), seals), more)


def health(look: Look) -> Shown:
    """Both destinations, whichever is looked at: the one that is down says so."""
    asked: dict[str, Callable[[], Any]] = {
        "Warehouse": lambda: warehouse_health(look.warehouse, look.deadline),
        "Lake": lake_health,
    }
    return Shown((), {"now": look.now, "health": {name: _or_error(ask_it) for name, ask_it in asked.items()}})


def _or_error(asked: Callable[[], Any]) -> Any:
    try:
        return asked()
    except AuditLogsError as error:
        return error
