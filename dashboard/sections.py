"""The sections of the page: each asks the store what it shows, and lays it out."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from html import escape
from itertools import groupby
from typing import Any

import marimo as mo

from sources.cloudflare_audit_logs.errors import AuditLogsError

from . import charts, pieces, questions
from .health import Health, checks, lake_health, warehouse_health
from .page import DATES, NEW, TIME, TITLES
from .questions import LONGEST_LIST, LOOK_BACK, Filters
from .stores import EventStore, Row

_NO_EVENTS = "No events here: choose a longer time, another account, or clear the search."
_COLUMNS = {
    "timestamp": "Time (UTC)",
    "actor": "Who",
    "action_type": "What",
    "action_result": "Result",
    "resource_type": "On",
    "resource_id": "Resource",
    "zone_name": "Zone",
    "ip_address": "From",
    "account_id": "Account",
    "api_version": "API",
}
_GAP = {
    "account_id": "Account",
    "api_version": "API",
    "hour": "Hour (UTC)",
    "api_events": "API has",
    "warehouse_events": "Warehouse has",
    "lake_events": "Lake has",
    "missing_in_warehouse": "Missing in warehouse",
    "missing_in_lake": "Missing in lake",
    "doubled_in_lake": "Doubled in lake",
    "differing": "Differing",
}


def overview(found: Mapping[str, list[Row]], filters: Filters, link: Mapping[str, str]) -> Any:
    """Changes over time; who, what, on what, from where."""
    if not found["time"]:
        return _nothing()
    rankings = "".join(pieces.ranking(title, found[subject], link) for subject, title in TITLES.items())
    return mo.vstack([charts.by_time(found["time"], filters), mo.Html(f'<div class="columns">{rankings}</div>')])


def first_seen(store: EventStore, filters: Filters) -> Any:
    """Actors and addresses that the weeks before do not have."""
    (rows,) = store.ask(questions.first_seen(filters))
    both = {
        "who": ("Actors", {"value": "Who", "first_seen": "First seen (UTC)", "address": "From", "events": "Events"}),
        "from where": (
            "Addresses",
            {"value": "From", "first_seen": "First seen (UTC)", "actor": "Who", "events": "Events"},
        ),
    }
    earliest = next((row["first_seen"] for row in rows if row["subject"] == "all"), None)
    parts = [
        f"<section><h3>{title} <small>{NEW}</small></h3>"
        + pieces.table(columns, [row for row in rows if row["subject"] == subject], nothing="None.")
        + "</section>"
        for subject, (title, columns) in both.items()
    ]
    return mo.Html(f'{_reservation(earliest, filters)}<div class="columns">{"".join(parts)}</div>')


def _reservation(earliest: datetime | None, filters: Filters) -> str:
    """A caveat: the time before is not known, because the store has hardly anything of it."""
    if earliest is None or earliest < filters.since - LOOK_BACK + timedelta(days=1):
        return ""
    caveat = f"there is nothing before {pieces.written(earliest)}: whoever was there before then looks new"
    return f'<p class="quiet">Of these {LOOK_BACK.days} days, {caveat}.</p>'


def failures(store: EventStore, filters: Filters, found: Mapping[str, list[Row]]) -> Any:
    """Failures by time, for whom and from where."""
    (rows,) = store.ask(questions.failures(filters))
    columns = {
        "actor": "Who",
        "action_type": "What",
        "resource_type": "On",
        "ip_address": "From",
        "failures": "Failures",
        "latest": "Latest (UTC)",
    }
    failed = [{**row, "events": row["failures"]} for row in found["time"]]
    listed = mo.Html(pieces.table(columns, rows, nothing="Nothing failed."))
    return mo.vstack([charts.by_time(failed, filters), listed]) if rows else listed


def events(store: EventStore, filters: Filters, link: Mapping[str, str], opened: str, older_than: str) -> Any:
    """The newest events or the next older ones, each with an address of its own, and the one that is opened."""
    newest = {**link, "section": "Events"}
    link = {**newest, "older": older_than}
    shown = _one_event(store, opened, link) if opened else ""
    (rows,) = store.ask(questions.events(filters, older_than))
    last = questions.key_of(rows[-1]) if len(rows) == LONGEST_LIST else ""
    for row in rows:
        at = pieces.written(row["timestamp"], "milliseconds")
        row["timestamp"] = pieces.Link(at, {**link, "event": questions.key_of(row)})
    listed = pieces.table(_COLUMNS, rows, nothing=_NO_EVENTS)
    title = f"{len(rows)} older ones" if older_than else f"The newest {len(rows)}"
    back = f"<small>{pieces.Link('the newest', newest)}</small>" if older_than else ""
    on = f"<p>{pieces.Link('older', {**newest, 'older': last})}</p>" if last else ""
    hint = "<small>a click on its time opens an event</small>"
    return mo.Html(f"{shown}<h3>{title} {hint}{back}</h3>{listed}{on}")


def _one_event(store: EventStore, key: str, link: Mapping[str, str]) -> str:
    """The event whole, with old and new values side by side."""
    question = questions.one_event(key)
    found = store.ask(question)[0] if question else []
    return pieces.event(found[0], link) if found else '<p class="quiet">There is no such event here.</p>'


def completeness(filters: Filters, link: Mapping[str, str]) -> Any:
    """Which hours were compared, by account and version, those with gaps first, and what is missing where."""
    rows = checks(filters)
    if not rows:
        hint = "Hours are compared when they are a day old, or by pipelines/reconcile.py."
        return mo.Html(f'<p class="quiet">No hour of this time has been compared yet. {hint}</p>')
    gaps = [{**row, "hour": _hour(row, link)} for row in rows if row["status"] == "gap"]
    parts: list[Any] = [mo.Html(f"<h3>Gaps</h3>{pieces.table(_GAP, gaps, nothing='No hour has a gap.')}")]
    streams = [list(hours) for _, hours in groupby(rows, key=lambda row: (row["account_id"], row["api_version"]))]
    for hours in sorted(streams, key=lambda hours: all(row["status"] != "gap" for row in hours)):
        title = f"<h3>{escape(hours[0]['account_id'])} <small>{escape(hours[0]['api_version'])}</small></h3>"
        parts += [mo.Html(title), charts.completeness(hours)]
    return mo.vstack(parts)


def _hour(row: Row, link: Mapping[str, str]) -> pieces.Link:
    """Leads to the events of that hour."""
    begin, end = (f"{at:{TIME}}" for at in (row["hour"], row["hour"] + timedelta(hours=1)))
    its = {"account": row["account_id"], "version": row["api_version"], "range": DATES, "from": begin, "to": end}
    return pieces.Link(pieces.written(row["hour"], "minutes"), {**link, **its, "section": "Events"})


def health(now: datetime) -> Any:
    """Both destinations, whichever is looked at: the one that is down says so."""
    both = "".join(pieces.health(name, _or_error(ask), now) for name, ask in _HEALTH.items())
    return mo.Html(f'<div class="columns">{both}</div>')


_HEALTH = {"Warehouse": warehouse_health, "Lake": lake_health}


def _or_error(ask: Any) -> Health | AuditLogsError:
    try:
        health: Health = ask()
    except AuditLogsError as error:
        return error
    return health


def _nothing() -> Any:
    return mo.Html(f'<p class="quiet">{_NO_EVENTS}</p>')
