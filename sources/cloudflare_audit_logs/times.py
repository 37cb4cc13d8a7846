"""Reads the times that the API writes. Pure."""

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .schema import TIME

EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""No event has a time outside these (Go writes the year 1 for none), and Python cannot calculate with all of them."""

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d+))?)? ?([Zz]|([+-]\d\d)(?::?(\d\d))?)?", re.ASCII
)
"""RFC 3339, and what is written for it: no seconds, no zone, `+0530`, `+05`, a space before them."""

_USUAL_LENGTHS = len("2026-11-20T10:00:00Z"), len("2026-11-20T10:00:00.123456Z")
"""Texts of these lengths that end in Z, Arrow casts a column at a time, as we do. Of other forms it casts some."""

_LEAP_SECOND = "60"


def parse_times(values: Sequence[Any]) -> pa.Array:
    """Times in UTC, cut (never rounded) to microseconds; null where there is no readable time."""
    texts = [value if isinstance(value, str) else None for value in values]
    times = None
    with suppress(pa.ArrowInvalid, UnicodeError):
        column = pa.array(texts, pa.string())
        lengths = pc.min_max(pc.binary_length(column)).as_py()
        is_usual = lengths["min"] is None or _USUAL_LENGTHS[0] <= lengths["min"] <= lengths["max"] <= _USUAL_LENGTHS[1]
        if is_usual and pc.all(pc.ends_with(column, "Z"), min_count=0).as_py():
            times = pc.cast(column, TIME)
    if times is None:
        times = pa.array([None if text is None else parse_time(text) for text in texts], TIME)
    is_possible = pc.and_(pc.greater_equal(times, EARLIEST), pc.less(times, LATEST))
    return pc.if_else(is_possible, times, pa.scalar(None, TIME))


def parse_time(text: str) -> datetime | None:
    """A time with 0 or more fraction digits; without a zone it is UTC; None if it is not one."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    day, minute, second, fraction, zone, hours, minutes = match.groups()
    is_leap = second == _LEAP_SECOND
    second = "59" if is_leap else second or "00"
    microseconds = f"{fraction or ''}000000"[:6]
    zone = "+00:00" if zone is None or zone in "Zz" else f"{hours}:{minutes or '00'}"
    try:
        time = datetime.fromisoformat(f"{day}T{minute}:{second}.{microseconds}{zone}").astimezone(UTC)
        return time + timedelta(seconds=is_leap)
    except (ValueError, OverflowError):
        return None
