"""The parts of the page as HTML. Whatever comes from an event is escaped: an attacker may have named it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, NamedTuple
from urllib.parse import urlencode

from pipelines.cli.status_text import duration
from pipelines.host.masking import masked
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .changes import Change, as_json, comparison_of, parsed
from .health import Health
from .stores import Row

_LONG_TEXT = 30
"""Characters. A cell may have to cut off a longer text."""
_FACTS = {
    "Who": ("actor_email", "actor_id", "actor_type"),
    "Did": ("action_type", "action_result"),
    "On": ("resource_type", "resource_id", "resource_product"),
    "Zone": ("zone_name",),
    "From": ("ip_address", "actor_context"),
    "Account": ("account_id", "api_version"),
    "Event": ("event_id",),
}


class Link(NamedTuple):
    """A text that opens the page by another address."""

    text: str
    query: Mapping[str, str]

    def __str__(self) -> str:
        return f'<a href="?{escape(urlencode(self.query))}">{escape(self.text)}</a>'


def key_numbers(numbers: Sequence[tuple[str, str, str]]) -> str:
    """Cards of a name, a number and a remark; an empty remark is none."""
    cards = (
        f'<div class="number"><span>{escape(name)}</span><b>{escape(number)}</b><small>{escape(remark)}</small></div>'
        for name, number, remark in numbers
    )
    return f'<div class="numbers">{"".join(cards)}</div>'


def ranking(title: str, rows: Sequence[Row], link: Mapping[str, str]) -> str:
    """Values with their events as bars; each links to the page with the value searched for."""
    most = max((row["events"] for row in rows), default=1)
    values = rows[0]["distinct_values"] if rows else 0
    lines = "".join(_ranked(row, most, link) for row in rows) or "<li>nothing</li>"
    return f'<section class="ranking"><h3>{escape(title)} <small>{values:,}</small></h3><ol>{lines}</ol></section>'


def _ranked(row: Row, most: int, link: Mapping[str, str]) -> str:
    value, part, failed = row["value"], 100 * row["events"] / most, 100 * row["failures"] / most
    name = "<i>unknown</i>"
    if value is not None:
        words = [*link["search"].split(), *value.split()]
        name = str(Link(value, {**link, "search": " ".join(dict.fromkeys(words))}))
    remark = f'<em title="failed">{row["failures"]:,}</em>' if row["failures"] else ""
    style = f"--part:{part:.1f}%;--failed:{failed:.1f}%"
    return f'<li style="{style}"><span>{name}</span>{remark}<b>{row["events"]:,}</b></li>'


def table(columns: Mapping[str, str], rows: Sequence[Row], *, nothing: str) -> str:
    """Rows as a table that scrolls by itself where the page is narrow; `columns` are names and titles."""
    if not rows:
        return f'<p class="quiet">{escape(nothing)}</p>'
    head = "".join(f"<th>{escape(title)}</th>" for title in columns.values())
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"<time>{written(value)}</time>"
    if isinstance(value, Link):
        return str(value)
    if isinstance(value, int):
        return f"<b>{value:,}</b>"
    text = escape("" if value is None else str(value))
    return f'<span title="{text}">{text}</span>' if len(text) > _LONG_TEXT else text


def event(row: Row, link: Mapping[str, str]) -> str:
    """One event whole: what is known of it, its two sides side by side, and the payload; `link` closes it."""
    try:
        payload = parsed(row["raw_event"])
        both, whole = comparison_of(payload), as_json(payload)
    except (ValueError, RecursionError):  # kept as it came
        both, whole = comparison_of(None), row["raw_event"]
    lines = "".join(_change(change) for change in both.changes)
    sides = f'<div class="sides"><i></i><b>{both.left}</b><b>{both.right}</b>{lines}</div>'
    nothing = '<p class="quiet">This event has no old and new values.</p>'
    return f"""<article class="event">
        <h3>{escape(row["action_type"] or "event")} <small>{written(row["timestamp"], "milliseconds")} UTC</small>
        <small>{Link("close", link)}</small></h3>
        <dl>{_facts(row)}</dl>{sides if both.changes else nothing}
        <details><summary>The whole event</summary><pre>{escape(whole)}</pre></details></article>"""


def _facts(row: Row) -> str:
    lag = (row["ingestion_time"] - row["timestamp"]).total_seconds()
    facts = {name: " · ".join(str(row[column]) for column in of if row[column]) for name, of in _FACTS.items()}
    facts["Loaded"] = f"{written(row['ingestion_time'])} UTC, {duration(lag)} after it happened"
    return "".join(f"<div><dt>{name}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts.items() if fact)


def _change(change: Change) -> str:
    kind = "same" if change.old == change.new else "differs"
    sides = "".join(
        f'<span class="{side} {kind}">{"<i>none</i>" if value is None else escape(value)}</span>'
        for side, value in (("old", change.old), ("new", change.new))
    )
    return f"<code>{escape(change.field)}</code>{sides}"


def health(name: str, of: Health | AuditLogsError, now: datetime) -> str:
    """A destination's cursors, last loads and quarantine, or the error in their place."""
    if isinstance(of, AuditLogsError):
        return f"<section><h3>{escape(name)}</h3>{problem(of)}</section>"
    cursors = [{"stream": stream, "cursor": at, "age": _age(at, now)} for stream, at in of.cursors.items()]
    loads = [{"at": at, "age": _age(at, now)} for at in of.loads]
    columns = {
        "account_id": "Account",
        "api_version": "Version",
        "reason": "Reason",
        "events": "Events",
        "latest": "Latest",
    }
    parts = {
        "Cursors": table({"stream": "Stream", "cursor": "Cursor (UTC)", "age": "Age"}, cursors, nothing="No load yet."),
        "Last loads": table({"at": "Loaded (UTC)", "age": "Age"}, loads, nothing="No load yet."),
        "Quarantine": table(columns, of.quarantined, nothing="Nothing is quarantined."),
    }
    listed = "".join(f"<h4>{title}</h4>{part}" for title, part in parts.items())
    return f"<section><h3>{escape(name)}</h3>{listed}</section>"


def problem(error: AuditLogsError) -> str:
    """An error and its remedy, in one sentence."""
    return f'<div class="problem" role="alert"><p>{escape(masked(str(error)))}</p></div>'


def note(text: str) -> str:
    """A note on what the page could not do as asked."""
    return f'<p class="quiet">{escape(text)}</p>'


def written(time: datetime, precision: str = "seconds") -> str:
    """A time in UTC as people read it."""
    return time.replace(tzinfo=None).isoformat(" ", precision)


def _age(time: datetime | None, now: datetime) -> str:
    return duration((now - time).total_seconds()) if time else ""
