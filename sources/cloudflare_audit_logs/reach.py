"""How much of a stream one request asks for, as its answers have shown. Pure, in memory only: losing it costs requests.

A request that is too much is followed by smaller ones, and what was answered grows again, one measure at a time: so the
measure that is refused is known, and the other one keeps its size.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from .streams import Window

DEPTH = 10_000
"""Events that the pages of one query show at most: what a step holds, and what a common search engine shows."""

LONGEST = timedelta(days=36_500)
SHORTEST = timedelta(milliseconds=1)

HOLD = 50
"""So many queries are answered before the size that was refused is tried once more."""

HEAVY = 128 * 1024 * 1024
"""Bytes, decoded: no page is made larger that would weigh more. Half of what the client takes."""


@dataclass
class Reach:
    """Of one stream: the events of a page, at most `largest_page`; the length of a window; the events of a query."""

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
    """What was made larger since the last answer."""
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

    def note_depth(self, shown: int) -> None:
        """A query showed so many events and no more, though there are more."""
        self.depth = min(self.depth, shown)

    def note_answer(self, asked: timedelta, weight: int) -> None:
        """A query of this length was answered with a page of this many bytes: asks for more from now on."""
        self.is_in_doubt, self._trial = False, None
        self._answers += 1
        if self._answers >= HOLD:
            self._refused_page = self._refused_span = None
            self.depth, self._answers = DEPTH, 0
        if self._may_grow_page(weight):
            self.page, self._trial = min(2 * self.page, self.largest_page), "page"
        elif self._may_grow_span(asked):
            self.span, self._trial = min(2 * self.span, LONGEST), "span"

    def _may_grow_page(self, weight: int) -> bool:
        is_refused = self._refused_page is not None and 2 * self.page >= self._refused_page
        return self.page < self.largest_page and not is_refused and 2 * weight <= HEAVY

    def _may_grow_span(self, asked: timedelta) -> bool:
        is_refused = self._refused_span is not None and 2 * self.span >= self._refused_span
        return self.span < LONGEST and not is_refused and asked >= self.span
