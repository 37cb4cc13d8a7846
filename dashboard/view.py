"""The view that a page shows, read from its address, and the addresses of other pages. Pure.

Every view is an address: reading one and writing it again gives the same.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from sources.cloudflare_audit_logs.times import EARLIEST, LATEST, parse_time

from .ask.conditions import Filters
from .ask.search import SearchError, Term, parse

SECTIONS = {
    "overview": "Overview",
    "events": "Events",
    "failures": "Failures",
    "first-seen": "First seen",
    "sign-ins": "Sign-ins",
    "tokens": "Tokens",
    "countries": "Countries",
    "completeness": "Completeness",
    "health": "Health",
}
VERSIONS = ("v1", "v2")
STORES = ("warehouse", "lake")
RANGES = {
    "1h": "last hour",
    "24h": "last 24 hours",
    "7d": "last 7 days",
    "30d": "last 30 days",
    "90d": "last 90 days",
    "365d": "last 365 days",
}
DEFAULT_RANGE = "7d"
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST_DAYS = 36_500
_DEFAULT_LENGTH, _SHORTEST = timedelta(days=7), timedelta(minutes=1)
_OWN = {"older", "newer", "event", "field", "order", "page"}
"""Parameters of one section alone: left out by links to others."""


@dataclass(frozen=True)
class View:
    """The view; `[since, before)` in UTC."""

    since: datetime
    before: datetime
    section: str = "overview"
    store: str = STORES[0]
    range: str = DEFAULT_RANGE
    """The time before now; empty if the times are pinned."""
    accounts: tuple[str, ...] = ()
    version: str = ""
    search: str = ""
    only_failures: bool = False
    own: tuple[tuple[str, str], ...] = ()
    base: str = field(default="", compare=False)
    terms: tuple[Term, ...] = field(default=(), compare=False)
    problems: tuple[str, ...] = field(default=(), compare=False)
    """The problems of the address, a sentence each."""
    is_search_wrong: bool = field(default=False, compare=False)

    @property
    def filters(self) -> Filters:
        """The events that are looked at."""
        return Filters(self.since, self.before, self.accounts, self.version, self.terms, self.only_failures)

    def __getitem__(self, name: str) -> str:
        return dict(self.own).get(name, "")

    @property
    def is_oldest_first(self) -> bool:
        """True if events are listed from the first to the last."""
        return self["order"] == "asc"

    def pairs(self) -> list[tuple[str, str]]:
        """The address' names and values; what goes without saying is left out."""
        times = [("range", self.range)] if self.range != DEFAULT_RANGE else []
        if not self.range:
            times = [("from", written(self.since)), ("to", written(self.before))]
        said = [
            ("store", "" if self.store == STORES[0] else self.store),
            *times,
            *(("account", account) for account in self.accounts),
            ("version", self.version),
            ("q", self.search),
            ("failures", "1" * self.only_failures),
            *self.own,
        ]
        return [(name, value) for name, value in said if value]

    @property
    def path(self) -> str:
        """The section's, below the base."""
        return "" if self.section == "overview" else self.section

    def href(self, **own: object) -> str:
        """The address of this view, with what its section alone knows."""
        kept = {**dict(self.own), **{name: str(value) for name, value in own.items()}}
        query = urlencode(replace(self, own=tuple(kept.items())).pairs())
        return f"{self.base}/{self.path}{'?' * bool(query)}{query}"

    def but(self, section: str = "", **changes: Any) -> str:
        """The address of a view that differs; it begins where its section does, but of what field it was stays."""
        kept = tuple((name, value) for name, value in self.own if name in {"field", "order"} and not section)
        return replace(self, **{"own": kept, "section": section or self.section, **changes}).href()

    def in_store(self, store: str) -> str:
        """The address of just the same in another store."""
        return replace(self, store=store).href()

    def pinned(self) -> str:
        """The address of just the same that keeps these times."""
        return replace(self, range="").href()

    def in_section(self, section: str, **own: str) -> str:
        """The address of the same in another section."""
        return self.but(section, own=tuple(own.items()))

    def narrowed(self, name: str, value: str | None, section: str = "") -> str:
        """The address of the events of this view whose field has this value, too; accounts and versions are filters."""
        if name == "account" and value:
            return self.but(section, accounts=(value,))
        if name == "version" and value in VERSIONS:
            return self.but(section, version=value)
        return self.but(section, search=self._searched(Term(value or "", name)))

    def counted(self, row: Mapping[str, Any], by: Iterable[str], also: Iterable[Term], name: str) -> str:
        """The address of the events that a row counts: all that have its values in these fields, or the failures."""
        terms = [*(Term(row[one] or "", one) for one in by), *also]
        failures = self.only_failures or name == "failures"
        return self.but("events", search=self._searched(*terms), only_failures=failures)

    def _searched(self, *more: Term) -> str:
        return " ".join(map(str, dict.fromkeys((*self.terms, *more))))

    def exported(self, kind: str, table: str = "") -> str:
        """The address of a table as a file; the times are pinned, so that it is of what is shown."""
        pinned = replace(self, range="")
        return pinned.href(older="", newer="", event="", format=kind, table=table)

    def without(self, term: Term) -> str:
        """The address without a term of its search."""
        return self.but(search=" ".join(str(one) for one in self.terms if one != term))

    @property
    def is_narrow(self) -> bool:
        """True if it leaves out events of its time."""
        return bool(self.terms or self.accounts or self.version or self.only_failures)

    def without_filters(self) -> str:
        """The address of all events of the time."""
        return self.but(search="", accounts=(), version="", only_failures=False)

    @property
    def has_words(self) -> bool:
        """True if a term, a word or one address, is looked for in the columns alone."""
        return any(map(_is_word, self.terms))

    def deeper(self) -> str:
        """The address where words are looked for in old and new values, too."""
        terms = (replace(term, field="text") if _is_word(term) else term for term in self.terms)
        return self.but(search=" ".join(map(str, terms)))

    def longer_ranges(self) -> list[tuple[str, str]]:
        """Those that are longer than what is looked at."""
        shown = self.before - self.since
        return [(name, title) for name, title in RANGES.items() if (_length_of(name) or shown) > shown]

    def during(self, since: datetime, before: datetime, section: str = "", **changes: Any) -> str:
        """The address of another time."""
        times = {"range": "", "since": _possible(since), "before": _possible(before)}
        return self.but(section, **times, **changes)

    def shifted(self, first: float, last: float) -> str:
        """The address of another time: begin and end are moved by a part of its length."""
        length = self.before - self.since
        return self.during(_moved(self.since, first * length), _moved(self.before, last * length))


def _is_word(term: Term) -> bool:
    return not term.field or (term.network is not None and term.network.num_addresses == 1)


def view_of(query: Iterable[tuple[str, str]], section: str, now: datetime, base: str = "") -> View:
    """The view that an address asks for; what it asks for in vain is told in `problems`."""
    pairs = [(name, value.strip()) for name, value in query]
    given, problems = dict(pairs), list[str]()

    def chosen(name: str, options: Iterable[str], default: str) -> str:
        value = given.get(name) or default
        if value not in options:
            problems.append(f"there is no {name} {value}: {default or 'all'} is shown")
            return default
        return value

    since, before, span = _times(given, now, problems)
    terms, is_wrong = tuple[Term, ...](), False
    try:
        terms = parse(given.get("q", ""))
    except SearchError as error:
        problems.append(f"The search cannot be read: {error}")
        is_wrong = True
    return View(
        since,
        before,
        section,
        chosen("store", STORES, STORES[0]),
        span,
        tuple(dict.fromkeys(value for name, value in pairs if name == "account" and value)),
        chosen("version", ("", *VERSIONS), ""),
        given.get("q", ""),
        given.get("failures") == "1",
        tuple((name, value) for name, value in given.items() if name in _OWN and value),
        base,
        terms,
        tuple(problems),
        is_wrong,
    )


def _times(given: dict[str, str], now: datetime, problems: list[str]) -> tuple[datetime, datetime, str]:
    if given.get("from") or given.get("to"):
        last = _time_of(given.get("to", ""), is_end=True) if given.get("to") else now
        first = _time_of(given["from"], is_end=False) if given.get("from") else last and _before(last, given)
        if first and last:
            if first > last:
                first, last = last, first
                problems.append(f"from is after to: what is shown is from {written(first)} to {written(last)}")
            first = min(first, LATEST - _SHORTEST)
            return first, max(last, first + _SHORTEST), ""
        problems.append("from and to are times such as 2026-11-20 or 2026-11-20 13:00: the last 7 days are shown")
    span = given.get("range") or DEFAULT_RANGE
    length = _length_of(span)
    if length is None:
        problems.append(f"there is no range {span}: write it as 36h or 14d; the last 7 days are shown")
        span, length = DEFAULT_RANGE, _DEFAULT_LENGTH
    return now - length, now, span


def _before(last: datetime, given: dict[str, str]) -> datetime:
    """The begin of the range, or of the 7 days, that ends there."""
    return _moved(last, -(_length_of(given.get("range", "")) or _DEFAULT_LENGTH))


def _length_of(text: str) -> timedelta | None:
    found = re.fullmatch(r"([1-9][0-9]{0,6})([mhd])", text)
    if found is None:
        return None
    length = timedelta(**{_UNITS[found[2]]: int(found[1])})
    return length if length <= timedelta(days=_LONGEST_DAYS) else None


def _time_of(text: str, *, is_end: bool) -> datetime | None:
    """A time in UTC; of a day, its begin, or the end where it ends something."""
    is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", text)
    found = parse_time(f"{text} 00:00" if is_day else text)
    return found and _possible(found + timedelta(days=bool(is_day and is_end)) if found < LATEST else found)


def _possible(time: datetime) -> datetime:
    """The nearest time that both stores can reckon with."""
    return min(max(time, EARLIEST), LATEST)


def _moved(time: datetime, length: timedelta) -> datetime:
    """The time after a length, as near to it as is possible."""
    return _possible(time + min(max(length, EARLIEST - time), LATEST - time))


def written(time: datetime, precision: str = "") -> str:
    """A time in UTC as people read it, to the minute if it is one, or else as precise as it is."""
    plain = time.astimezone(UTC).replace(tzinfo=None)
    precision = precision or ("auto" if plain.microsecond else "seconds" if plain.second else "minutes")
    return plain.isoformat(" ", precision)
