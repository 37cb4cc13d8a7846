"""Exports what is shown, as CSV or JSON: the rows of a table, or all columns of the events, as they are read."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA

from .ask import questions
from .ask.conditions import Filters
from .ask.deadline import Deadline
from .ask.stores import EventStore, Row, ask
from .view import View

MOST_EVENTS = 100_000
_LONGEST_SEARCH = 40
FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a text that begins like this for a formula, which may send what stands beside it elsewhere."""


def written(kind: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The rows as text, piece by piece; times are RFC 3339 in UTC."""
    if kind == "csv":
        yield _line(columns)
        for row in rows:
            yield _line([_safe(_plain(row.get(name))) for name in columns])
        return
    before = "[\n"
    for row in rows:
        yield before + json.dumps({name: _plain(row.get(name)) for name in columns}, ensure_ascii=False)
        before = ",\n"
    yield "\n]\n" if before == ",\n" else "[]\n"


def events(store: EventStore, filters: Filters, days: Sequence[Row], *, is_oldest_first: bool = False) -> Iterator[Row]:
    """The newest events, or the oldest, at most MOST_EVENTS, with all their columns: a question a day."""
    left = MOST_EVENTS
    for day in reversed(days) if is_oldest_first else days:
        begin, end = max(day["day"], filters.since), min(day["day"] + timedelta(days=1), filters.before)
        asked = questions.all_columns(replace(filters, since=begin, before=end), left, is_oldest_first=is_oldest_first)
        (table,) = store.tables(asked, deadline=Deadline())
        for batch in table.to_batches(max_chunksize=1_000):
            yield from batch.to_pylist()
        left -= table.num_rows
        if left <= 0:
            return


def file_name(view: View, name: str) -> str:
    """The name of a file without its ending: store, section, table, times, and as much of the search as is safe."""
    times = (f"{time:%Y%m%dT%H%M%S}" for time in (view.since, view.before))
    search = re.sub(r"[^A-Za-z0-9.@]+", "_", view.search)[:_LONGEST_SEARCH].strip("_.")
    return "-".join(filter(None, ("audit", view.store, view.section, name, *times, search)))


def days_of(store: EventStore, filters: Filters, deadline: Deadline) -> list[Row]:
    """The days that have events, and how many."""
    return ask(store, questions.days(filters), deadline=deadline)[0]


EVENT_COLUMNS = EVENT_SCHEMA.names


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_RISKY) else value


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
