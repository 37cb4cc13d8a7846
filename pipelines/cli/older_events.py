"""Deletes the warehouse's events that are older than a time: some thousand rows or whole chunks at a time."""

import sys
from datetime import datetime

from adbc_driver_manager.dbapi import Connection
from tqdm import tqdm

from pipelines.warehouse.connection import transaction_on, value_of
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.upkeep import find, look_where_timescale_is


def delete_older(connection: Connection, schema: str, oldest: datetime, *, dry_run: bool) -> tuple[str, int]:
    """Returns the unit, and how many of it were deleted, or would be."""
    sections = sections_of("retention.sql", schema=schema, oldest=oldest.isoformat())
    found = find(connection, schema)
    unit = "events" if found.chunk_days is None else "chunks"

    def execute(section: str) -> int:
        with transaction_on(connection) as cursor:
            look_where_timescale_is(cursor, found)
            return int(value_of(cursor, *sections[section]))

    if dry_run or unit == "chunks":
        return unit, execute(f"count {unit}" if dry_run else "drop chunks")
    with tqdm(unit=" events", desc="deleted", disable=not sys.stderr.isatty()) as bar:
        deleted = 0
        while count := execute("delete some events"):
            deleted += count
            bar.update(count)
    return unit, deleted
