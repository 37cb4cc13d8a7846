"""The quarantine of the lake: an object an account and day of reception, and of older releases one an account.

An event is in it once: by the key (account, version, digest), over all objects. Whoever is about to add one asks the
objects of the days on which it can have been received before: an event that the API shows in a window was not received
before that window began.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs.schema import QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .object_format import select_columns
from .object_rows import read_object, reading
from .objects import Objects, update
from .partitions import DAY, add_quarantined, quarantine_folder, quarantine_paths, quarantined_since, split_quarantined

_HELD = select_columns(QUARANTINE_SCHEMA, ["digest", "api_version"])
_CLOCKS_DIFFER = timedelta(minutes=10)
"""Reception is by our clock, windows are by the API's: more than five minutes apart, nothing is loaded."""

MOST_DAYS = 31
"""Whose objects are asked for one by one: polls and sweeps, which look at two days, list nothing."""


def write_quarantined(objects: Objects, rows: pa.Table) -> None:
    """Adds the quarantined events that the object of their day lacks."""
    for path, its_rows in split_quarantined(rows):

        def change(body: bytes | None, path: str = path, rows: pa.Table = its_rows) -> bytes | None:
            with reading(path):
                return add_quarantined(body, rows)

        update(objects, path, change)


def quarantine_objects(objects: Objects, account_id: str, received: Window) -> list[str]:
    """The objects, there or not, that can hold what was received in a window; listed if it is a long one."""
    if received.before - received.since > MOST_DAYS * DAY:
        return quarantined_since(objects.sizes(quarantine_folder(account_id)), received.since)
    return quarantine_paths(account_id, received)


def held_digests(
    objects: Objects, stream: Stream, digests: Sequence[str], received: Window, *, but: Collection[str] = ()
) -> set[str]:
    """Those of the digests that are quarantined, received in a window, in other objects than some.

    One object is in memory at a time. Raises as `read_object`.
    """
    received = Window(received.since - _CLOCKS_DIFFER, received.before)
    wanted, held = pa.array(digests, pa.string()), set[str]()
    for path in quarantine_objects(objects, stream.account_id, received):
        if path not in but:
            rows = read_object(objects, path, _HELD)
            is_wanted = pc.and_(pc.equal(rows["api_version"], stream.api_version), pc.is_in(rows["digest"], wanted))
            held.update(rows["digest"].filter(is_wanted).to_pylist())
    return held
