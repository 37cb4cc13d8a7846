"""The counts by hour that a plain table's own transactions keep: their SQL, and the events that were there before it.

A trigger of each statement counts what the statement changed, so the counts are right after every load, repair and
deletion, whoever makes it. What a table had before its triggers is counted piece by piece, newest first. Meanwhile
the views count the table. SQL: `sql/counts.sql`.
"""

import time

from adbc_driver_manager.dbapi import Connection

from sources.cloudflare_audit_logs.schema import EVENTS_TABLE

from .connection import rows_of, transaction_on
from .statements import sections_of

ALL_OF_TIME = "-infinity"
"""The hour from which on a table is counted that is counted whole."""
PIECE_EVENTS = 100_000
"""Counted in one transaction: half a second."""
SECONDS_A_LOAD = 3.0
"""A load waits so long for the next pieces: in less than ten seconds, the loop holds up the other store for nothing."""

_FILE = "counts.sql"


def sections(schema: str, **names: object) -> dict[str, list[str]]:
    """The statements of the file by section; all but those that count some events are complete."""
    (counts,) = sections_of(_FILE)["counts of events"]
    window = """ WHERE "timestamp" >= '{since}' AND "timestamp" < '{before}'"""
    sources = {
        "counts of the changed": counts.replace("{source}", "changed"),
        "counts of the events": counts.replace("{source}", f"{schema}.{EVENTS_TABLE}{window}"),
        "piece": PIECE_EVENTS,
    }
    return sections_of(_FILE, **sources, schema=schema, **names)


def count_older_events(connection: Connection, schema: str, *, is_patient: bool) -> str | None:
    """Counts the events from before the triggers; returns the hour from which on they are counted, None if all are.

    It stops after SECONDS_A_LOAD unless it is patient. Raises adbc_driver_manager.Error.
    """
    until = time.monotonic() + SECONDS_A_LOAD
    while True:
        with transaction_on(connection) as cursor:
            lock, hours_to_count = sections(schema)["hours to count"]
            cursor.execute(lock)
            (hours,) = rows_of(cursor, hours_to_count)
            for statement in sections(schema, **hours)["count some events"]:
                cursor.execute(statement)
        since = str(hours["since"])
        if since == ALL_OF_TIME:
            return None
        if not is_patient and time.monotonic() > until:
            return since
