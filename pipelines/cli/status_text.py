"""The status for people: a table with colours on a terminal, or a list where it is too narrow; elsewhere plain text."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pipelines.lake.reads import DAYS
from pipelines.proof.gaps import MOST_SHOWN
from pipelines.warehouse.measured_lag import too_little

_ALARMING = ("late", "gaps", "quarantined")
_NUMBERS = ("today", *_ALARMING)
_COLUMNS = (
    *("account", "version", "warehouse until", "lake until", "today", "came within (50 %, 99.9 %)"),
    *_ALARMING,
)


def status_text(status: Mapping[str, Any], width: int | None) -> str:
    """The status in lines, for a terminal of that width with colours; None: for anything else, without."""
    rows = list(_rows(status))
    widths = [max(map(len, cells)) for cells in zip(_COLUMNS, *rows, strict=True)]
    if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
        table = [[_bold(_padded(name, name, size)) for name, size in zip(_COLUMNS, widths, strict=True)]]
        table += [[_cell(*cell) for cell in zip(_COLUMNS, row, widths, strict=True)] for row in rows]
    else:  # the columns below each other, for what would be cut in a table
        size = max(map(len, _COLUMNS))
        cells = [cell for row in rows for cell in (*zip(_COLUMNS, row, strict=True), None)]
        table = [[_bold(cell[0].ljust(size)), _cell(*cell)] if cell else [] for cell in cells]
    text = "\n".join([*map("  ".join, table), "", *_lines(status)])
    return re.sub(r"\x1b\[[0-9;]*m", "", text) if width is None or os.environ.get("NO_COLOR") else text


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def _alarm(text: str) -> str:
    return f"\x1b[1;31m{text}\x1b[0m"


def _padded(name: str, text: str, size: int) -> str:
    return text.rjust(size) if name in _NUMBERS else text.ljust(size)


def _cell(name: str, text: str, size: int = 0) -> str:
    padded = _padded(name, text, size)
    return _alarm(padded) if name in _ALARMING and not text.startswith(("0", "-")) else padded


def _rows(status: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row for each stream: both cursors, and what the warehouse knows of it."""
    lake = {_key(stream): stream for stream in status["lake"].get("streams", [])}
    warehouse = {_key(stream): stream for stream in status["warehouse"].get("streams", [])}
    for key in sorted({*warehouse, *lake}):
        stream = warehouse.get(key, {})
        yield *key, _age(stream), _age(lake.get(key, {})), *_counts(stream)


def _key(stream: Mapping[str, Any]) -> tuple[str, str]:
    return stream["account_id"], stream["api_version"]


def _age(stream: Mapping[str, Any]) -> str:
    if not stream.get("cursor"):
        return "-"
    return f"{datetime.fromisoformat(stream['cursor']):%Y-%m-%d %H:%M:%S}, {duration(stream['age_seconds'])} ago"


def _counts(stream: Mapping[str, Any]) -> list[str]:
    if not stream:
        return ["-"] * 5
    delay = "not measured"
    if stream["events_measured"]:
        delay = f"{stream['delay_seconds']['median']:.0f} s, {stream['delay_seconds']['nearly_all']:.0f} s"
    gaps = f"{stream['hours_with_gaps']:,} of {stream['hours_compared']:,} h"
    return [f"{stream['events_today']:,}", delay, f"{stream['late']:,}", gaps, f"{stream['quarantined']:,}"]


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    warehouse, lake = status["warehouse"], status["lake"]
    if "error" in warehouse:
        yield f"{_alarm('warehouse')}   {warehouse['error']}"
    else:
        events = f"{warehouse['estimated_events']:,} events by PostgreSQL's estimate"
        size = f"{events}, {warehouse['bytes'] / 1e6:,.1f} MB with indexes"
        yield f"{_bold('warehouse')}   {size}; last load {warehouse['last_load'] or 'never'}"
        wanted, lag = warehouse["recommended_lag_seconds"], status["safety_lag_seconds"]
        events = sum(stream["events_measured"] for stream in warehouse["streams"])
        advice = f"at least {wanted} s by {events:,} events measured" if wanted else too_little(events)
        yield f"{_bold('safety lag')}  {lag:g} s; {advice}"
        yield from _gaps(warehouse["gaps"], [repair["command"] for repair in warehouse["repairs"]])
    if "error" in lake:
        yield f"{_alarm('lake')}        {lake['error']}"
    else:
        size = f"{lake['objects_of_last_days']:,} objects, {lake['bytes_of_last_days'] / 1e6:,.1f} MB"
        yield f"{_bold('lake')}        {size} of the last {DAYS} days; last load {lake['last_load'] or 'never'}"


def _gaps(summary: str | None, commands: Sequence[str]) -> Iterator[str]:
    """Nothing where there is none; else the commands that repair them."""
    if summary is None:
        return
    yield f"{_alarm('gaps')}        {summary}. To repair:"
    yield from (f"            {command}" for command in commands[:MOST_SHOWN])
    if len(commands) > MOST_SHOWN:
        yield f"            and {len(commands) - MOST_SHOWN} more: --json has them"


def duration(seconds: float) -> str:
    """A length of time in the unit that people would use."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
