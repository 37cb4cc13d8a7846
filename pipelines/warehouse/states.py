"""The dlt states that lie in a warehouse: those of its pipeline, and those of all shards that there ever were."""

from typing import Any

from adbc_driver_manager.dbapi import Cursor
from dlt.common.versioned_state import decompress_state

from pipelines.settings.shards import sibling_pattern

from .connection import rows_of
from .statements import sections_of

PIPELINE_NAME = "cloudflare_audit_warehouse"


def stored_states(cursor: Cursor, schema: str) -> list[Any]:
    """The newest state of each pipeline with cursors whose load is complete; none before the first load."""
    sections = sections_of("health.sql", schema=schema, pipelines=sibling_pattern(PIPELINE_NAME))
    (there,) = rows_of(cursor, *sections["tables"])
    if not there["states"]:
        return []
    return [decompress_state(row["state"]) for row in rows_of(cursor, *sections["states"])]
