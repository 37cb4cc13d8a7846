"""The sections of the page: each asks the store for what it shows, and returns what its template needs."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Any

from . import charts, export
from .ask import questions
from .ask.conditions import Filters
from .ask.payloads import payloads
from .ask.questions import LONGEST_LIST, LOOK_BACK, ORDERS, SUBJECTS
from .ask.search import Term
from .ask.stores import Row
from .changes import as_json, comparison_of, name_of, parsed
from .health import completeness, health
from .look import COUNTS, TIMES, TITLES, Look, Shown, Table
from .view import View, written

_EVENT = (
    "timestamp",
    "actor",
    "action",
    "result",
    "type",
    "resource",
    "zone",
    "address",
    "token",
    "account",
    "version",
)
_DAY_SECONDS = 86_400
_FACTS = {
    "Who": ("actor", "actor_id", "actor_type", "context"),
    "Did": ("action", "description", "result"),
    "On": ("type", "resource", "product"),
    "Zone": ("zone",),
    "From": ("address",),
    "Token": ("token", "token_name"),
    "Account": ("account", "version"),
    "Event": ("event",),
}


def overview(look: Look) -> Shown:
    """Key numbers, changes over time, and who did what, on what, from where. Deeds, where both versions are there."""
    filters = look.filters
    found = _by_subject(look.ask(questions.overview(filters))[0])
    versions = {row["value"]: row["events"] for row in sorted(found["version"], key=lambda row: str(row["value"]))}
    counted = found
    if len(versions) > 1:
        deeds = _by_subject(look.ask(questions.deeds(filters))[0])
        for name in ("actor", "address"):
            for row in deeds[name]:
                row["distinct_values"] = found[name][0]["distinct_values"]
        counted = {**found, **{name: deeds[name] for name in ("time", "actor", "address")}}
    rankings = [(name, TITLES[name], counted[name], counted[name] is not found[name]) for name in SUBJECTS]
    more = {
        "numbers": _numbers(counted, found, versions, filters),
        "versions": versions,
        "chart": charts.by_time(counted["time"], look.view, filters),
        "rankings": rankings,
    }
    table = Table("changes", {"begins": "From (UTC)", **COUNTS}, counted["time"])
    return Shown((table,), more)


def _by_subject(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {name: [] for name in ("time", "version", *SUBJECTS)}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return found


def _numbers(
    counted: Mapping[str, list[Row]], found: Mapping[str, list[Row]], versions: Mapping[str, int], filters: Filters
) -> list[tuple[str, str, str]]:
    """Name, number and remark. The rate is that of the time that has events."""
    events, failed = (sum(row[name] for row in counted["time"]) for name in ("events", "failures"))
    hours = len(counted["time"]) * questions.bucket_seconds(filters) / 3_600
    unit, many = ("day", hours / 24) if questions.bucket_seconds(filters) >= _DAY_SECONDS else ("hour", hours)
    a = "an" if unit == "hour" else "a"
    rate = (
        f"{events / many:,.{int(events < 10 * many)}f} {a} {unit} ({unit}s with events: {many:,.3g})" if events else ""
    )
    is_deeds = len(versions) > 1
    numbers = [
        ("Deeds, at least" if is_deeds else "Records", f"{events:,}", rate),
        ("Failed", f"{failed:,}", f"{failed / events:.1%}" if events else ""),
    ]
    if is_deeds:
        numbers.insert(
            1, ("Records", f"{sum(versions.values()):,}", ", ".join(f"{n:,} in {v}" for v, n in versions.items()))
        )
    for name in ("actor", "action", "address"):
        rows = found[name]
        most = next((row["value"] for row in rows if row["value"] is not None), "")
        plural = TITLES[name] + ("es" if name == "address" else "s")
        numbers.append((plural, f"{rows[0]['distinct_values'] if rows else 0:,}", f"mostly {most}" if most else ""))
    return numbers


def values(look: Look) -> Shown:
    """All values of a field, in pages, the rarest first if so chosen."""
    view = look.view
    name = view["field"] if view["field"] in TITLES else "actor"
    order = view["order"] if view["order"] in ORDERS else "most"
    page = int(view["page"]) if view["page"].isdecimal() and len(view["page"]) < 6 else 0  # noqa: PLR2004  # digits
    (rows,) = look.ask(questions.values(look.filters, name, order, page))
    number = rows[0]["distinct_values"] if rows else 0
    columns = {name: TITLES[name], **COUNTS, "actors": "Actors", **TIMES}
    table = Table("values", columns, [{**row, name: row["value"]} for row in rows], to="events", by=(name,))
    more = {"field": name, "order": order, "orders": list(ORDERS), "page": page, "number": number, "titles": TITLES}
    return Shown((table,), {**more, "has_more": (page + 1) * LONGEST_LIST < number, "size": LONGEST_LIST})


def failures(look: Look) -> Shown:
    """Failures by time, for whom, at what and from where."""
    filters = replace(look.filters, only_failures=True)
    found, rows = look.ask(questions.overview(filters), questions.failures(filters))
    shown = ("actor", "action", "type", "zone", "address")
    columns = {**{name: TITLES[name] for name in shown}, "failures": "Failed records", "last_seen": "Latest (UTC)"}
    beside = ("description",)
    table = Table("failures", columns, rows, "Nothing failed.", by=(*shown, *beside), beside=beside)
    return Shown((table,), {"chart": charts.by_time(_by_subject(found)["time"], look.view, filters)})


def first_seen(look: Look) -> Shown:
    """Actors and addresses that the weeks before do not have."""
    filters = look.filters
    rows = look.store.first_seen(filters, look.deadline)
    remark = f"not seen in the {LOOK_BACK.days} days before"
    tables = []
    for name, other in (("actor", "address"), ("address", "actor")):
        columns = {name: TITLES[name], "first_seen": "First seen (UTC)", other: TITLES[other], "events": "Records"}
        its = [{**row, name: row["value"]} for row in rows if row["subject"] == name]
        tables.append(
            Table(
                name,
                columns,
                its,
                to="events",
                by=(name,),
                title=f"New {name}{'es' if name == 'address' else 's'}",
                remark=remark,
            )
        )
    earliest = next((row["first_seen"] for row in rows if row["subject"] == "all"), None)
    is_short = earliest is not None and earliest >= filters.since - LOOK_BACK + timedelta(days=1)
    return Shown(tuple(tables), {"nothing_before": written(earliest, "seconds") if earliest and is_short else ""})


def sign_ins(look: Look) -> Shown:
    """Sign-ins by actor and address."""
    (rows,) = look.ask(questions.sign_ins(look.filters))
    columns = {"actor": "Actor", "address": "Address", **COUNTS, **TIMES}
    its: dict[str, Any] = {"by": ("actor", "address"), "also": (Term("login"),)}
    return Shown((Table("sign-ins", columns, rows, "Nobody signed in, or v2 is not read.", **its),))


def tokens(look: Look) -> Shown:
    """The API tokens that were used, and what made, rolled or deleted some."""
    filters = look.filters
    used, changed = look.ask(questions.tokens_used(filters), questions.token_changes(filters))
    columns = {"token": "Token", "name": "Name", "actor": "Actor", **COUNTS, "addresses": "Addresses", **TIMES}
    changes = replace(_events("changes", changed, look), title="Made, rolled, changed, deleted")
    nothing = "No event names a token: only v2 does."
    return Shown(
        (changes, Table("used", columns, used, nothing, by=("token", "actor"), title="Used")), _opened(look, changes)
    )


def countries(look: Look) -> Shown:
    """The countries of addresses."""
    (rows,) = look.ask(questions.addresses(look.filters))
    found = [{**row, "country": look.countries[row["address"]] or "unknown"} for row in rows]
    found.sort(key=lambda row: row["country"])
    totals = []
    for country, group in groupby(found, key=lambda row: row["country"]):
        its = list(group)
        counts = {name: sum(row[name] for row in its) for name in COUNTS}
        totals.append(
            {"country": country, **counts, "addresses": len(its), "last_seen": max(row["last_seen"] for row in its)}
        )
    totals.sort(key=lambda row: -row["events"])
    place = {row["country"]: number for number, row in enumerate(totals)}
    found.sort(key=lambda row: (place[row["country"]], -row["events"]))
    columns = {"country": "Country", "addresses": "Addresses", **COUNTS, "last_seen": "Latest (UTC)"}
    each = {"country": "Country", "address": "Address", "actors": "Actors", **COUNTS, "last_seen": "Latest (UTC)"}
    return Shown(
        (
            Table("countries", columns, totals, title="Countries"),
            Table("addresses", each, found[: 5 * LONGEST_LIST], to="events", by=("address",), title="Addresses"),
        )
    )


def events(look: Look) -> Shown:
    """The newest or the oldest records, or the next ones, and the one that is opened, in its place."""
    filters, view = look.filters, look.view
    last_key = view["newer" if view.is_oldest_first else "older"]
    (rows,) = look.ask(questions.events(filters, last_key, is_oldest_first=view.is_oldest_first))
    number = len(rows)
    if last_key or number == LONGEST_LIST:  # what the list does not show has to be counted
        number = sum(day["events"] for day in export.days_of(look.store, filters, look.deadline))
    last = questions.key_of(rows[-1]) if len(rows) == LONGEST_LIST else ""
    table = _events("events", rows, look)
    more = {"number": number, "last": last, "is_later_page": bool(last_key), "most_exported": export.MOST_EVENTS}
    return Shown((table,), {**more, **_opened(look, table)})


def _opened(look: Look, table: Table) -> dict[str, Any]:
    """The event that the address opens, and if the table has it."""
    key = look.view["event"]
    return {"opened": event(look, key) if key else None, "is_listed": any(row["key"] == key for row in table.rows)}


def _events(name: str, rows: list[Row], look: Look) -> Table:
    """A column that is empty throughout, or has one value, is left out where the address says it anyway."""
    touched = _names(rows, look)
    keys = [questions.key_of(row) for row in rows]
    rows = [{**row, "key": key, "resource_name": touched.get(key, "")} for row, key in zip(rows, keys, strict=True)]
    left_out = {column for column in ("zone", "token") if not any(row[column] for row in rows)}
    left_out |= {"account"} if len(look.view.accounts) == 1 else set()
    titles = {**TITLES, "timestamp": "Time (UTC)"}
    columns = {column: titles[column] for column in _EVENT if column not in left_out}
    return Table(
        name,
        columns,
        rows,
        "No events here.",
        opens=True,
        beside=("description", "resource_name", "token_name", "event"),
    )


def _names(rows: list[Row], look: Look) -> dict[str, str]:
    """By an event's key, the name of what it touched; a second question, so that the list reads no payloads."""
    found = look.ask(payloads(look.filters, rows))[0] if rows else []
    names = dict[str, str]()
    for row in found:
        with suppress(ValueError, RecursionError):
            names[questions.key_of(row)] = name_of(parsed(row["raw_event"]))
    return names


def event(look: Look, key: str) -> Mapping[str, Any] | None:
    """One event whole: what is known of it, its two sides, its payload, and the addresses of what is near it."""
    question = questions.one_event(key)
    found = look.ask(question)[0] if question else []
    if not found:
        return None
    row = found[0]
    try:
        payload = parsed(row["raw_event"])
        both, whole = comparison_of(payload), as_json(payload)
    except (ValueError, RecursionError):  # kept as it came
        both, whole = comparison_of(None), row["raw_event"]
    lag = (row["ingestion_time"] - row["timestamp"]).total_seconds()
    facts = {title: {name: row[name] for name in names if row[name]} for title, names in _FACTS.items()}
    return {"row": row, "facts": facts, "both": both, "whole": whole, "lag": lag, "near": _near(row, look.view)}


def _near(row: Row, view: View) -> list[tuple[str, str]]:
    """Links to the questions that an investigator asks next."""
    at = row["timestamp"]
    minute = at.replace(second=0, microsecond=0)
    wide = replace(view, accounts=(row["account"],), version="", only_failures=False)
    asked = [
        ("this minute, by this actor, v1 and v2", "actor", minute, minute + timedelta(minutes=1)),
        ("an hour around it, by this actor", "actor", at - timedelta(minutes=30), at + timedelta(minutes=30)),
        ("a day around it, from this address", "address", at - timedelta(hours=12), at + timedelta(hours=12)),
        ("this resource, 30 days before and after", "resource", at - timedelta(days=30), at + timedelta(days=30)),
        ("this token, 30 days before and after", "token", at - timedelta(days=30), at + timedelta(days=30)),
    ]
    return [
        (title, wide.during(since, before, "events", search=str(Term(row[name], name))))
        for title, name, since, before in asked
        if row[name]
    ]


SHOW: dict[str, Callable[[Look], Shown]] = {
    "overview": overview,
    "values": values,
    "failures": failures,
    "first-seen": first_seen,
    "sign-ins": sign_ins,
    "tokens": tokens,
    "countries": countries,
    "events": events,
    "completeness": completeness,
    "health": health,
}
