"""The charts, drawn on the server: shapes for the templates, each leading to the events that it stands for. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from .ask.conditions import Filters
from .ask.questions import bucket_seconds
from .view import View, written

Row = Mapping[str, Any]
WIDTH, HEIGHT = 100, 160
"""The bars' units: per cent of the page, and units of the drawing."""
_GAP, _DAY = 0.1, 86_400
_TICKS = (
    60,
    300,
    600,
    900,
    1_800,
    3_600,
    10_800,
    21_600,
    43_200,
    *(_DAY * days for days in (1, 2, 7, 14, 28, 84, 365)),
)
_MOST_TICKS = 9
_WITH_YEAR = 300 * _DAY


class Bar(NamedTuple):
    """The events of a time."""

    x: float
    width: float
    y: float
    failed_y: float
    href: str
    label: str
    begins: str
    events: int
    failures: int


class Chart(NamedTuple):
    """Bars, and the marks of both axes."""

    bars: list[Bar]
    times: list[tuple[float, str]]
    numbers: list[tuple[float, str]]


def by_time(rows: Sequence[Row], view: View, filters: Filters) -> Chart:
    """Events by time, those that failed in front."""
    most = _round_up(max((row["events"] for row in rows), default=1))
    size = timedelta(seconds=bucket_seconds(filters))
    bars = []
    for row in rows:
        begin, end = max(row["begins"], filters.since), min(row["begins"] + size, filters.before)
        x = _x(begin, filters)
        label = f"{written(row['begins'])} UTC: {row['events']:,} events"
        bars.append(
            Bar(
                round(x, 3),
                round(max(0.2, _x(end, filters) - x - _GAP), 3),
                round(HEIGHT * (1 - row["events"] / most), 1),
                round(HEIGHT * (1 - row["failures"] / most), 1),
                view.during(begin, end),
                f"{label}, {row['failures']:,} failed" if row["failures"] else label,
                written(row["begins"]),
                row["events"],
                row["failures"],
            )
        )
    marks = (0, 0.5, 1) if most > 1 else (0, 1)
    numbers = [(round(HEIGHT * (1 - part), 1), f"{most * part:,.0f}") for part in marks]
    return Chart(bars, _times(filters), numbers)


def _x(time: datetime, filters: Filters) -> float:
    return WIDTH * ((time - filters.since) / (filters.before - filters.since))


def _times(filters: Filters) -> list[tuple[float, str]]:
    """Marks at whole hours or days, in 24 hours and UTC."""
    window = (filters.before - filters.since).total_seconds()
    step = next((step for step in _TICKS if window / step <= _MOST_TICKS), math.ceil(window / _MOST_TICKS))
    at = math.ceil(filters.since.timestamp() / step) * step
    marks = []
    while at < filters.before.timestamp():
        time = datetime.fromtimestamp(at, UTC)
        is_day = step >= _DAY or at % _DAY == 0
        form = "%H:%M" if not is_day else "%d %b %Y" if window > _WITH_YEAR else "%d %b"
        marks.append((round(_x(time, filters), 3), f"{time:{form}}"))
        at += step
    return marks


def _round_up(number: int) -> int:
    """The next number of one digit and noughts, even so that half of it is whole."""
    unit: int = 10 ** (len(str(number)) - 1)
    return max(1 if number <= 1 else 2, next(n * unit for n in (1, 2, 4, 6, 8, 10) if n * unit >= number))


class Day(NamedTuple):
    """A row of the calendar: 24 hours, None where nothing was compared."""

    name: str
    hours: list[tuple[str, str, str] | None]
    """Status, text and address."""


def calendar(checks: Sequence[Row], view: View) -> list[Day]:
    """The comparisons of a stream, a row a day, the newest first."""
    days = []
    newest_first = sorted(checks, key=lambda row: row["hour"], reverse=True)
    for day, its in groupby(newest_first, key=lambda row: row["hour"].date()):
        hours: list[tuple[str, str, str] | None] = [None] * 24
        for row in its:
            hour = row["hour"]
            counts = ", ".join(f"{name} {row[f'{name}_events']}" for name in ("api", "warehouse", "lake"))
            stream: dict[str, Any] = {"accounts": (row["account"],), "version": row["version"]}
            href = view.during(hour, hour + timedelta(hours=1), "events", **stream)
            hours[hour.hour] = (row["status"], f"{written(hour)} {row['status']}: {counts}", href)
        days.append(Day(day.isoformat(), hours))
    return days
