"""The events of an hour as a set of hashes: whatever order, columns and file they are stored in. Pure.

A leaf is RFC 6962's hash over account, version, id, time and the API's own bytes of an event, each with its length
before it. The root is over the leaves in the order of their hashes: a row that is there twice has two leaves.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct

import pyarrow as pa

from pipelines.lake.object_format import select_columns
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA

from .merkle import root_of

LEAF_SCHEMA = select_columns(
    EVENT_SCHEMA, ["account_id", "api_version", "event_id", "timestamp", "raw_event", "ingestion_time"]
)
"""The columns that a leaf is made of, and the one that says when the event was first seen."""
PREFIX_BYTES = 8
"""Enough to tell an hour's leaves apart. They prove nothing: the root over the whole leaves does."""

_length = Struct(">I").pack
_TIME_LENGTH = _length(len("2026-11-27T09:00:00.000000Z"))


def leaves_of(rows: pa.Table) -> list[bytes]:
    """Returns the leaf of each row, in the rows' order."""
    accounts, versions, ids, raws = (_bytes(rows[n]) for n in ("account_id", "api_version", "event_id", "raw_event"))
    begins = {
        (account, version): b"\0%b%b%b%b" % (_length(len(account)), account, _length(len(version)), version)
        for account, version in set(zip(accounts, versions, strict=True))
    }
    join = b"".join
    return [
        sha256(
            join((begins[a, v], _length(len(name)), name, _TIME_LENGTH, day, b"T", time, b"Z", _length(len(raw)), raw))
        ).digest()
        for a, v, name, (day, time), raw in zip(accounts, versions, ids, _times(rows["timestamp"]), raws, strict=True)
    ]


def _bytes(column: pa.ChunkedArray) -> list[bytes]:
    """Returns the texts of a column as bytes: a cast takes as long as to hash ten events."""
    found: list[bytes] = []
    for chunk in column.chunks:
        found += pa.Array.from_buffers(pa.binary(), len(chunk), chunk.buffers(), offset=chunk.offset).to_pylist()
    return found


def _times(column: pa.ChunkedArray) -> Iterator[list[bytes]]:
    """Yields each time as day and time, with microseconds. With its zone, a cast takes ten times as long."""
    for chunk in column.chunks:
        for text in chunk.view(pa.timestamp("us")).cast(pa.string()).to_pylist():
            yield text.encode().split()


def set_root(leaves: Iterable[bytes]) -> bytes:
    """Returns the root over leaves, whatever order they come in."""
    return root_of(sorted(leaves))


def prefixes_of(leaves: Iterable[bytes]) -> list[bytes]:
    """Returns the first bytes of each leaf, in order."""
    return sorted(leaf[:PREFIX_BYTES] for leaf in leaves)
