"""The rows of the lake's objects: read, and added by their keys; it names the object that is none of ours.

A quarantined event is there once: by the key (account, version, digest), over all objects of the account. There is an
object a day of reception, and of older releases one an account. An event that the API shows in a window was not
received before that window began: the objects of earlier days are not asked for it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs.errors import BrokenObjectError, TemporaryError
from sources.cloudflare_audit_logs.schema import QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .object_format import NewerVersionError, open_object, read_rows, select_columns
from .objects import ConflictError, Objects, update
from .partitions import (
    DAY,
    add_events,
    add_quarantined,
    by_partition,
    place_of,
    quarantine_folder,
    quarantine_paths,
    split_quarantined,
)

Add = Callable[[bytes | None, pa.Table], bytes | None]
_ATTEMPTS = 10
_DIGESTS = select_columns(QUARANTINE_SCHEMA, ["digest", "api_version"])
_CLOCKS_DIFFER = timedelta(minutes=10)
"""Reception is by our clock, windows are by the API's: more than five minutes apart, nothing is loaded."""
MOST_DAYS = 31
"""Days whose objects are asked for one by one: polls and sweeps, which look at two days, list nothing."""


class NewerObjectError(BrokenObjectError):
    """An object of a newer release, which this one can neither read nor change: nothing is wrong with it."""


def read_object(objects: Objects, path: str, schema: pa.Schema, *, in_parts: bool = True) -> pa.Table:
    """Reads the rows of an object, in parts or in one request, in the columns of a schema; none if it is not there.

    Raises:
        BrokenObjectError: it is not Parquet of our columns.
        TemporaryError: it is replaced again and again while it is read.
        OSError, ClientError: the store is not there.
    """
    for _ in range(_ATTEMPTS):
        try:
            if in_parts:
                file = objects.open(path)
            else:
                stored = objects.read(path)
                file = stored and BytesIO(stored.body)
            if file is None:
                return schema.empty_table()
            with file, reading(path):
                rows = read_rows(open_object(file, pre_buffer=True), schema)
                rows.validate(full=True)
                return rows
        except ConflictError:
            continue
    raise TemporaryError(f"{path} cannot be read", detail=f"it was replaced {_ATTEMPTS} times while it was read")


def write_events(objects: Objects, groups: Iterable[pa.Table]) -> None:
    """Adds the events that the objects of their hours lack, one object after the other."""
    for partition, events in by_partition(groups):
        _write(objects, partition.path, add_events, events)


def write_quarantined(objects: Objects, rows: pa.Table) -> None:
    """Adds the quarantined events that the objects of their days lack."""
    for path, of_day in split_quarantined(rows):
        _write(objects, path, add_quarantined, of_day)


def _write(objects: Objects, path: str, add: Add, rows: pa.Table) -> None:
    def change(body: bytes | None) -> bytes | None:
        with reading(path):
            return add(body, rows)

    update(objects, path, change)


def quarantine_objects(objects: Objects, account_id: str, received: Window) -> list[str]:
    """The objects, there or not, that can hold events received in a window; listed if the window is a long one."""
    if received.before - received.since > MOST_DAYS * DAY:
        places = {path: place_of(path) for path in sorted(objects.listing(quarantine_folder(account_id)))}
        return [path for path, place in places.items() if place and (not place[1] or received.since < place[1].before)]
    return quarantine_paths(account_id, received)


def held_digests(
    objects: Objects, stream: Stream, digests: Sequence[str], received: Window, *, but: Collection[str] = ()
) -> set[str]:
    """Returns those of the digests that are quarantined, received in a window, in other objects than some.

    One object is in memory at a time. Raises as `read_object`.
    """
    received = Window(received.since - _CLOCKS_DIFFER, received.before)
    wanted, held = pa.array(digests, pa.string()), set[str]()
    for path in quarantine_objects(objects, stream.account_id, received):
        if path not in but:
            rows = read_object(objects, path, _DIGESTS)
            is_wanted = pc.and_(pc.equal(rows["api_version"], stream.api_version), pc.is_in(rows["digest"], wanted))
            held.update(rows["digest"].filter(is_wanted).to_pylist())
    return held


@contextmanager
def reading(path: str) -> Iterator[None]:
    """A block that parses an object: its errors name the object."""
    try:
        yield
    except NewerVersionError as error:
        hint = "upgrade this release: the object is as it should be, and was left alone"
        problem = f"the object {path} was written by a newer release"
        raise NewerObjectError(problem, detail=str(error), hint=hint) from error
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        hint = f"{_repair_command(path)} sets it aside and brings its events back"
        problem = f"the object {path} is not Parquet of our columns"
        raise BrokenObjectError(problem, detail=str(error), hint=hint) from error


def _repair_command(path: str) -> str:
    """The command that repairs an object.

    A quarantined event has no hour: the window is the day of its reception, and the day before.
    """
    account_id, window = place_of(path) or ("A", None)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    window = window or Window(today, today + DAY)
    since = window.since - (DAY if window.before - window.since == DAY else timedelta())
    times = f"--since {since:%Y-%m-%dT%HZ} --before {window.before:%Y-%m-%dT%HZ}"
    return f"cloudflare-audit reconcile --repair --account {account_id} {times}"
