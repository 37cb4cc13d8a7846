"""One query: how much of a stream it asks for, and what its pages show. Pure, in memory only: losing it costs requests.

A request that is too much is followed by smaller ones, and a size that was answered grows again, one measure at a time:
so the measure that is refused is known, and the other one keeps its size.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from .errors import AccountError
from .events import EventKey, Page, event_keys
from .streams import Window

DEPTH = 10_000
"""Events that the pages of one query show at most: a step's size, and what a common search engine shows."""

EDGE = timedelta(seconds=1)
"""Events are told apart by id this far back: a server may round times, or not include `since` itself."""

TICK = timedelta(microseconds=1)

COMMON_CAP = 100
"""Servers often cap a page at it. A number of results that is a multiple of it may be a limit of the server's."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LONGEST = timedelta(days=36_500)
SHORTEST = timedelta(milliseconds=1)

HOLD = 50
"""So many queries are answered before the size that was refused is tried once more."""

HEAVY = 128 * 1024 * 1024
"""Bytes, decoded: no page is made larger that would weigh more. Half of what the client takes."""


@dataclass
class Reach:
    """The size of one stream's queries: events of a page (at most `largest_page`) and in all, length of a window."""

    largest_page: int
    page: int = field(init=False)
    span: timedelta = LONGEST
    depth: int = DEPTH
    most_shown: int = 0
    """The most events that one query has shown: a limit of results is no lower."""
    has_shown_order: bool = False
    """Events more than a second apart came oldest first, as asked."""
    is_in_doubt: bool = False
    """Smaller queries are being tried: none is worth a retry."""
    _trial: Literal["page", "span"] | None = None
    """The measure that was made larger since the last answer."""
    _refused_page: int | None = None
    _refused_span: timedelta | None = None
    _answers: int = 0

    def __post_init__(self) -> None:
        self.page = self.largest_page

    @property
    def is_patient(self) -> bool:
        """True if a query that fails is worth a retry, as it is of a size that was answered before."""
        return not self.is_in_doubt and self._trial is None

    def window(self, since: datetime, before: datetime) -> Window:
        """The first part of a window that one query may ask for."""
        return Window(since, before if before - since <= self.span else since + self.span)

    def shrink(self, asked: timedelta, *, page_alone: bool) -> bool:
        """After a query that was too much: asks for less. False if nothing smaller is left to ask for."""
        before = self.page, self.span
        if page_alone or self._trial == "page":
            self._refused_page, self._refused_span = self.page, None
            self.page = max(1, self.page // (2 if self._trial else 8))
        elif self._trial == "span":
            self._refused_span, self.span = asked, max(asked / 2, SHORTEST)
        else:
            self._refused_page, self._refused_span = None, asked
            self.page, self.span = max(1, self.page // 4), max(min(asked, self.span) / 4, SHORTEST)
        self.is_in_doubt = self._trial is None
        self._trial, self._answers = None, 0
        return (self.page, self.span) != before

    def shorten(self, asked: timedelta) -> bool:
        """Halves the window alone; False if it is as short as can be."""
        self._refused_span, self.span, self._answers = asked, max(asked / 2, SHORTEST), 0
        return asked > SHORTEST

    def note_answer(self, asked: timedelta, weight: int) -> None:
        """A query of this length was answered with a page of this many bytes: asks for more from now on."""
        self.is_in_doubt, self._trial = False, None
        self._answers += 1
        if self._answers >= HOLD:
            self._refused_page = self._refused_span = None
            self.depth, self._answers = DEPTH, 0
        may_grow_page = (self._refused_page is None or 2 * self.page < self._refused_page) and 2 * weight <= HEAVY
        may_grow_span = (self._refused_span is None or 2 * self.span < self._refused_span) and asked >= self.span
        if may_grow_page and self.page < self.largest_page:
            self.page, self._trial = min(2 * self.page, self.largest_page), "page"
        elif may_grow_span and self.span < LONGEST:
            self.span, self._trial = min(2 * self.span, LONGEST), "span"


@dataclass
class Stretch:
    """One query, and what came of it."""

    asked: Window
    per_page: int
    shown: int = 0
    fresh: int = 0
    """Events that the reading did not see before."""
    pages: int = 0
    last: int = 0
    largest: int = 0
    """Events of the last page, and of the largest one."""
    newest: datetime | None = None
    oldest: datetime | None = None
    keys: list[pa.Table] = field(default_factory=list)
    is_cut: bool = False
    """We stopped, at its depth."""
    error: AccountError | None = None

    def add(self, page: Page) -> None:
        """Counts a page as it came."""
        self.last = page.events.num_rows + page.quarantined.num_rows
        self.largest, self.shown, self.pages = max(self.largest, self.last), self.shown + self.last, self.pages + 1
        self.keys.append(page.keys)

    @property
    def length(self) -> timedelta:
        """The length of its window."""
        return self.asked.before - self.asked.since

    @property
    def ends_on_full_page(self) -> bool:
        """True if its end may be a limit of the server's: the last page was full, or all are a round number."""
        is_like_others = self.pages > 1 and self.last >= self.largest
        is_full = self.last >= self.per_page or is_like_others
        return self.shown > 0 and (is_full or self.shown % COMMON_CAP == 0)


def step_back(events: pa.Table, newest: datetime | None) -> timedelta:
    """Returns the largest step back in time from one event to the next, or from `newest`; zero: in order."""
    if not events.num_rows:
        return timedelta()
    times = events["timestamp"].combine_chunks().cast(pa.int64())
    lowest = pc.min(times).as_py()
    first = times[0].as_py() if newest is None else (newest - EPOCH) // TICK
    steps = pc.min(pc.subtract(times[1:], times[:-1])).as_py() or 0
    return timedelta(microseconds=max(first - lowest, -steps, 0))


def without(events: pa.Table, keys: Collection[EventKey]) -> pa.Table:
    """The events whose keys are others."""
    return events.filter(pa.array([key not in keys for key in event_keys(events)], pa.bool_())) if keys else events
