"""The events of an hour as a set of hashes: whatever order, columns and file they are stored in. Pure.

A leaf is RFC 6962's hash over account, version, id, time and the API's own bytes of an event, each with its length
before it. The root is over the leaves in the order of their hashes: a row that is there twice has two leaves.
"""

from collections.abc import Iterable
from hashlib import sha256
from struct import Struct

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.object_format import select_columns
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA

from .merkle import root_of

LEAF_SCHEMA = select_columns(
    EVENT_SCHEMA, ["account_id", "api_version", "event_id", "timestamp", "raw_event", "ingestion_time"]
)
"""The columns that a leaf is made of, and the one that says when the event was first seen."""
PREFIX_BYTES = 8
"""Enough to tell an hour's leaves apart. They prove nothing: the root over the whole leaves does."""

_FIELDS = ("account_id", "api_version", "event_id", "timestamp", "raw_event")
_length = Struct(">I").pack


def leaves_of(rows: pa.Table) -> list[bytes]:
    """Returns the leaf of each row, in the rows' order."""
    columns = [_texts(rows[name]).cast(pa.binary()).to_pylist() for name in _FIELDS]
    return [
        sha256(
            b"\0%b%b%b%b%b%b%b%b%b%b"
            % (_length(len(a)), a, _length(len(v)), v, _length(len(e)), e, _length(len(t)), t, _length(len(raw)), raw)
        ).digest()
        for a, v, e, t, raw in zip(*columns, strict=True)
    ]


def set_root(leaves: Iterable[bytes]) -> bytes:
    """Returns the root over leaves, whatever order they come in."""
    return root_of(sorted(leaves))


def prefixes_of(leaves: Iterable[bytes]) -> list[bytes]:
    """Returns the first bytes of each leaf, in order."""
    return sorted(leaf[:PREFIX_BYTES] for leaf in leaves)


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column as text; a time as RFC 3339 has it: 2026-11-27T09:00:00.000000Z."""
    if not pa.types.is_timestamp(column.type):
        return column
    return pc.binary_replace_slice(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.string()), 10, 11, "T")
