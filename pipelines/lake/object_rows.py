"""Reads the rows of the lake's objects, all in one way, and says which object is none of ours. Never writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pyarrow as pa

from sources.cloudflare_audit_logs.errors import BrokenObjectError, TemporaryError

from .object_format import NewerVersionError, open_object, read_rows
from .objects import ConflictError, Objects
from .partitions import DAY, place_of

_ATTEMPTS = 10


class NewerObjectError(BrokenObjectError):
    """An object of a newer release, which this one can neither read nor change: nothing is wrong with it."""


def read_object(objects: Objects, path: str, schema: pa.Schema, *, in_parts: bool = True) -> pa.Table:
    """The rows of an object in the columns of a schema; none if it is not there. In parts, or in one request.

    Raises:
        BrokenObjectError: it is not Parquet of our columns.
        TemporaryError: it is replaced again and again while it is read.
        OSError, ClientError: the store is not there.
    """
    for _ in range(_ATTEMPTS):
        try:
            file = objects.open(path) if in_parts else _whole(objects, path)
            if file is None:
                return schema.empty_table()
            with file, reading(path):
                rows = read_rows(open_object(file, pre_buffer=True), schema)
                rows.validate(full=True)
                return rows
        except ConflictError:
            continue
    raise TemporaryError(f"{path} is being written without end", detail=f"replaced {_ATTEMPTS} times while read")


def _whole(objects: Objects, path: str) -> BytesIO | None:
    stored = objects.read(path)
    return None if stored is None else BytesIO(stored.body)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """A block that parses an object: says which one is none of ours."""
    try:
        yield
    except NewerVersionError as error:
        hint = "upgrade this release: the object is as it should be, and was left alone"
        raise NewerObjectError(
            f"the object {path} was written by a newer release", detail=str(error), hint=hint
        ) from error
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        hint = f"{repair_command(path)} sets it aside and brings its events back"
        problem = f"the object {path} is not Parquet of our columns"
        raise BrokenObjectError(problem, detail=str(error), hint=hint) from error


def repair_command(path: str) -> str:
    """The command that repairs an object.

    A quarantined event has no hour: the window is the day of its reception, and the day before.
    """
    place = place_of(path)
    account_id, window = place or ("A", None)
    if window is None:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        since, before = today - DAY, today + DAY
    else:
        since, before = window.since, window.before
        since -= DAY if before - since == DAY else timedelta()
    return (
        f"pipelines/reconcile.py --repair --account {account_id}"
        f" --since {since:%Y-%m-%dT%HZ} --before {before:%Y-%m-%dT%HZ}"
    )
