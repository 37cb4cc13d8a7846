"""The status for people: a table with colours on a terminal, or a list where it is too narrow; elsewhere plain text."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.lake.reads import DAYS
from pipelines.proof.gaps import MOST_SHOWN
from pipelines.warehouse.measured_lag import too_little

_PLAIN_WIDTH = 200
_WIDER = 1000
"""Than any table."""
_NUMBERS = ("today", "late", "gaps", "quarantined")
_COLUMNS = (
    *("account", "version", "warehouse until", "lake until", "today", "came within (50 %, 99.9 %)"),
    *("late", "gaps", "quarantined"),
)


def print_status(status: Mapping[str, Any], out: TextIO) -> None:
    """Prints the status on a stream."""
    show_status(status, Console(file=out, highlight=False, width=None if out.isatty() else _PLAIN_WIDTH))
    out.flush()


def show_status(status: Mapping[str, Any], console: Console) -> None:
    """The same on a console."""
    rows = list(_rows(status))
    table = _table(rows)
    is_wide = console.measure(table, options=console.options.update_width(_WIDER)).maximum <= console.width
    console.print(table if is_wide else _list(rows))
    console.print()
    for line in _lines(status):
        console.print(line, soft_wrap=True)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _list(rows: Sequence[Sequence[str]]) -> Table:
    """The columns below each other, for what would be cut in a table."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        for name, cell in zip(_COLUMNS, row, strict=True):
            table.add_row(f"[bold]{name}[/]", cell)
        table.add_row()
    return table


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
    gaps = _alarming(stream["hours_with_gaps"]) + f" of {stream['hours_compared']:,} h"
    return [f"{stream['events_today']:,}", delay, _alarming(stream["late"]), gaps, _alarming(stream["quarantined"])]


def _alarming(count: int) -> str:
    return f"[bold red]{count:,}[/]" if count else "0"


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    warehouse, lake = status["warehouse"], status["lake"]
    if "error" in warehouse:
        yield f"[bold red]warehouse[/]   {escape(warehouse['error'])}"
    else:
        events = f"{warehouse['estimated_events']:,} events by PostgreSQL's estimate"
        size = f"{events}, {warehouse['bytes'] / 1e6:,.1f} MB with indexes"
        yield f"[bold]warehouse[/]   {size}; last load {warehouse['last_load'] or 'never'}"
        wanted, lag = warehouse["recommended_lag_seconds"], status["safety_lag_seconds"]
        events = sum(stream["events_measured"] for stream in warehouse["streams"])
        advice = f"at least {wanted} s by {events:,} events measured" if wanted else too_little(events)
        yield f"[bold]safety lag[/]  {lag:g} s; {advice}"
        yield from _gaps(warehouse["gaps"], [repair["command"] for repair in warehouse["repairs"]])
    if "error" in lake:
        yield f"[bold red]lake[/]        {escape(lake['error'])}"
    else:
        size = f"{lake['objects_of_last_days']:,} objects, {lake['bytes_of_last_days'] / 1e6:,.1f} MB"
        yield f"[bold]lake[/]        {size} of the last {DAYS} days; last load {lake['last_load'] or 'never'}"


def _gaps(summary: str | None, commands: Sequence[str]) -> Iterator[str]:
    """Nothing where there is none; else the commands that repair them."""
    if summary is None:
        return
    yield f"[bold red]gaps[/]        {summary}. To repair:"
    yield from (f"            {escape(command)}" for command in commands[:MOST_SHOWN])
    if len(commands) > MOST_SHOWN:
        yield f"            and {len(commands) - MOST_SHOWN} more: --json has them"


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
