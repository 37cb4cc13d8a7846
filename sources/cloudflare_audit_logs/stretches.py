"""Reads a window whole, however long or full it is, though the API may show less than all of it. Pure.

A window is read in stretches, one query each, oldest first. No query is deeper than a step, unless a single second
holds more: the next one begins at the newest time reached, less a second, and what was shown before is left out by its
key. An end on full pages is not believed: it is asked once more from there. A query that is too much is made smaller
(`reach`). Where one instant holds more than the API shows, the rest is read nevertheless, and `HiddenEventsError` ends
the reading.
"""

from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .errors import AccountError, HiddenEventsError
from .events import Page
from .reach import Reach
from .streams import Window

Ask = Callable[[Window, str, int, Callable[[], bool]], Iterator[Page]]
"""Queries a window: its direction, the events of a page, whether what may be too much is retried. Yields pages."""

_Key = tuple[str, int]
"""Event id and microseconds: what tells the events of a stream apart."""

EDGE = timedelta(seconds=1)
"""Events are told apart by id this far back: a server may round times, or not include `since` itself."""

TICK = timedelta(microseconds=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

PROBE = timedelta(seconds=1)
"""The window of the one request that shows whether anything is answered at all."""

COMMON_CAP = 100
"""Of a page. A number of results that is a multiple of it may be a limit of the server's."""


def read_whole(ask: Ask, window: Window, reach: Reach, direction: str) -> Iterator[Page]:
    """Yields the events of a window, each at least once, in pages; `asc`: oldest first, as far as the API keeps order.

    Newest first, what does not come whole in one query is read again oldest first.

    Raises:
        AccountError: the window could not be read; what was yielded so far is a part of it.
        HiddenEventsError: all that the API shows was yielded, and it does not show all.
    """
    if direction == "desc" and reach.window(window.since, window.before) == window:
        is_whole = yield from _newest_first(ask, window, reach)
        if is_whole:
            return
    yield from _Reading(ask, window, reach).pages()


@dataclass
class _Stretch:
    """One query, and what came of it."""

    asked: Window
    per_page: int
    shown: int = 0
    pages: int = 0
    last: int = 0
    largest: int = 0
    fresh: int = 0
    """Events that the reading did not see before."""
    newest: datetime | None = None
    oldest: datetime | None = None
    tables: list[pa.Table] = field(default_factory=list)
    """The keys of its events."""
    is_cut: bool = False
    """We stopped, at its depth."""
    error: AccountError | None = None

    def add(self, page: Page) -> None:
        """Takes note of a page as it came."""
        self.last = page.events.num_rows + page.quarantined.num_rows
        self.largest, self.shown, self.pages = max(self.largest, self.last), self.shown + self.last, self.pages + 1
        self.tables.append(page.events.select(["event_id", "timestamp"]))

    @property
    def length(self) -> timedelta:
        """That of its window."""
        return self.asked.before - self.asked.since

    @property
    def ends_on_full_page(self) -> bool:
        """True if its end may be a limit of the server's: the last page was full, or all are a round number."""
        is_like_others = self.pages > 1 and self.last >= self.largest
        is_full = self.last >= self.per_page or is_like_others
        return self.shown > 0 and (is_full or self.shown % COMMON_CAP == 0)


class _Instant(NamedTuple):
    """A time at which the API showed no more than so many events; what follows is asked for without it."""

    time: datetime
    shown: int
    is_refused: bool
    """It refused to show more; otherwise it ended."""


class _Reading:
    """Oldest first."""

    def __init__(self, ask: Ask, window: Window, reach: Reach) -> None:
        self._ask, self._window, self._reach = ask, window, reach
        self._position = window.since - TICK
        """Everything up to this time was read, of what is shown in order."""
        self._edge = EDGE
        self._recent: set[_Key] = set()
        """The keys of what was read from an edge before the position on."""
        self._is_ordered = True
        self._suspect: int | None = None
        """The last stretch ended with so many events, on a full page."""
        self._instant: _Instant | None = None
        self._hidden: list[datetime] = []
        self._is_done = False

    def pages(self) -> Iterator[Page]:
        """All that the API shows."""
        while not self._is_done:
            since = max(self._window.since, self._position - self._edge)
            stretch = _Stretch(self._reach.window(since, self._window.before), self._reach.page)
            yield from self._read(stretch)
            self._note(stretch)
            self._go_on(stretch)
            self._reach.most_shown = max(self._reach.most_shown, stretch.shown)
        if self._hidden:
            raise HiddenEventsError(self._hidden)

    # --- one stretch ------------------------------------------------------------------------------------------------

    def _read(self, stretch: _Stretch) -> Iterator[Page]:
        try:
            for page in self._ask(stretch.asked, "asc", stretch.per_page, lambda: self._is_patient(stretch)):
                if not stretch.pages:
                    self._reach.note_answer(stretch.length, page.events.nbytes + page.quarantined.nbytes)
                yield from self._take(stretch, page)
                if self._is_deep_enough(stretch):
                    stretch.is_cut = True
                    return
        except AccountError as error:
            if not error.too_much:
                raise
            stretch.error = error
            return
        if not stretch.pages:
            self._reach.note_answer(stretch.length, 0)

    def _is_patient(self, stretch: _Stretch) -> bool:
        return stretch.pages > 0 or self._reach.is_patient

    def _take(self, stretch: _Stretch, page: Page) -> Iterator[Page]:
        """Yields what the page has that the stretch before did not show."""
        events, newest = page.events, stretch.newest
        if events.num_rows:
            bounds = pc.min_max(events["timestamp"]).as_py()
            if bounds["min"] <= self._position:
                events = _without(events, self._recent)
            if self._is_ordered and not _is_in_order(events, newest):
                # Pages that drift show some events twice: those say nothing of the order.
                seen = {key for keys in stretch.tables for key in _keys(keys)}
                self._is_ordered = _is_in_order(_without(events, seen), newest)
            is_far = bounds["max"] - (stretch.oldest or bounds["min"]) > EDGE
            self._reach.has_shown_order |= self._is_ordered and is_far
            stretch.newest = max(newest or bounds["max"], bounds["max"])
            stretch.oldest = min(stretch.oldest or bounds["min"], bounds["min"])
        stretch.add(page)
        stretch.fresh += events.num_rows
        if events.num_rows or page.quarantined.num_rows:
            yield Page(events, page.quarantined)

    def _is_deep_enough(self, stretch: _Stretch) -> bool:
        is_deep = stretch.shown + stretch.per_page > self._reach.depth
        has_more = stretch.last >= min(stretch.per_page, COMMON_CAP)
        may_end = has_more and (is_deep or stretch.per_page != self._reach.page)
        return may_end and self._reach.has_shown_order and self._has_moved(stretch)

    def _has_moved(self, stretch: _Stretch) -> bool:
        return self._is_ordered and stretch.newest is not None and stretch.newest > self._position

    # --- what follows -----------------------------------------------------------------------------------------------

    def _note(self, stretch: _Stretch) -> None:
        """What the stretch says of those before it: there is more than they showed."""
        if stretch.fresh and self._suspect is not None:
            self._reach.note_depth(self._suspect)
        if stretch.fresh and self._instant is not None:
            self._hidden.append(self._instant.time)
            self._instant = None
        self._suspect = None

    def _go_on(self, stretch: _Stretch) -> None:
        """Decides where the next stretch begins, and how much it asks for.

        Raises:
            AccountError: the stretch failed, and there is nothing smaller to ask for.
        """
        if self._has_moved(stretch) and not self._reach.has_shown_order:
            self._is_ordered = self._is_nothing_before(stretch)
        if stretch.error is not None:
            self._go_on_after(stretch, stretch.error)
        elif stretch.is_cut:
            self._move(stretch, stretch.newest)
        elif not stretch.ends_on_full_page or self._has_shown_more(stretch):
            self._pass(stretch)
        elif not self._is_ordered or stretch.newest is None:
            self._divide(stretch)
        elif self._has_moved(stretch):
            self._suspect = stretch.shown
            self._move(stretch, stretch.newest)
        else:
            self._look_closer(stretch, is_refused=False)

    def _has_shown_more(self, stretch: _Stretch) -> bool:
        """True if the API has shown more events at once than this time: no limit of results ended this stretch.

        An end that can be asked once more is asked, whatever was shown before.
        """
        return not self._has_moved(stretch) and not stretch.fresh and stretch.shown < self._reach.most_shown

    def _go_on_after(self, stretch: _Stretch, error: AccountError) -> None:
        if self._has_moved(stretch):
            if error.too_much == "window":
                self._reach.note_depth(stretch.shown)
            self._move(stretch, stretch.newest)
        elif stretch.shown and self._is_ordered and stretch.newest is not None and error.too_much == "window":
            self._look_closer(stretch, is_refused=True)
        else:
            self._ask_for_less(stretch, error)

    def _move(self, stretch: _Stretch, time: datetime | None, edge: timedelta = EDGE) -> None:
        """The next stretch begins at a time."""
        self._position, self._edge = time or self._position, edge
        self._remember(stretch)

    def _pass(self, stretch: _Stretch) -> None:
        """The stretch was read to its end, and if it came behind an instant, nothing shows that this held more."""
        self._settle()
        self._is_done = stretch.asked.before >= self._window.before
        self._move(stretch, stretch.asked.before)

    def _settle(self) -> None:
        """Nothing came behind an instant: it held more than it showed if more was refused, or a round number shown."""
        instant, self._instant = self._instant, None
        if instant is not None:
            is_round = instant.shown % COMMON_CAP == 0 and instant.shown >= self._reach.most_shown
            self._hidden += [instant.time] if instant.is_refused or is_round else []

    def _look_closer(self, stretch: _Stretch, *, is_refused: bool) -> None:
        """No later time was reached: asks once more, then from the instant itself on, then from behind it."""
        self._remember(stretch)
        if stretch.fresh:
            return
        if self._instant is None and self._edge == EDGE:
            self._edge = TICK
        elif self._instant is None:
            self._instant = _Instant(self._position, stretch.shown, is_refused)
            self._position, self._edge = self._position + TICK, timedelta()
        elif self._position < self._instant.time + EDGE:  # the API reckons in seconds: it shows again what we know
            self._position = self._instant.time + EDGE
        else:
            self._pass(stretch)
        if self._position >= self._window.before:
            self._settle()
            self._is_done = True

    def _divide(self, stretch: _Stretch) -> None:
        """Without an order of time, a limit shows by this alone: parts of the window show more than the whole."""
        self._remember(stretch)
        if stretch.shown < self._reach.most_shown:
            self._pass(stretch)
        elif not self._reach.shorten(stretch.length):
            self._hidden.append(stretch.asked.since)
            self._pass(stretch)

    def _ask_for_less(self, stretch: _Stretch, error: AccountError) -> None:
        """Makes the next query smaller, once a very small one has shown that anything is answered at all."""
        self._remember(stretch)
        is_page = error.too_much == "page"
        if not is_page and self._reach.is_patient and not self._is_anything_answered(stretch.asked):
            raise error
        if not self._reach.shrink(stretch.length, page_alone=is_page):
            raise error

    def _is_anything_answered(self, asked: Window) -> bool:
        try:
            probe = Window(asked.since, min(asked.since + PROBE, asked.before))
            next(self._ask(probe, "asc", 1, lambda: False), None)
        except AccountError as error:
            if error.too_much:
                return False
            raise
        return True

    def _is_nothing_before(self, stretch: _Stretch) -> bool:
        """Events of a single second say nothing of the order: asks for what should have come before them."""
        is_short = not (stretch.error or stretch.ends_on_full_page)
        if is_short or stretch.oldest is None or stretch.oldest <= stretch.asked.since:
            return True
        before = Window(stretch.asked.since, stretch.oldest)
        try:
            page = next(self._ask(before, "asc", 1, lambda: False), None)
        except AccountError as error:
            if error.too_much:
                return False
            raise
        return page is None or not pc.any(pc.less(page.events["timestamp"], stretch.oldest)).as_py()

    def _remember(self, stretch: _Stretch) -> None:
        since = self._position - EDGE
        lowest = (since - _EPOCH) // TICK
        self._recent = {key for key in self._recent if key[1] >= lowest}
        for keys in stretch.tables:
            self._recent.update(_keys(keys.filter(pc.greater_equal(keys["timestamp"], since))))


def _newest_first(ask: Ask, window: Window, reach: Reach) -> Generator[Page, None, bool]:
    """Yields a window newest first; returns whether it came whole."""
    stretch = _Stretch(window, reach.page)
    try:
        for page in ask(window, "desc", reach.page, lambda: stretch.pages > 0 or reach.is_patient):
            stretch.add(page)
            yield page
    except AccountError as error:
        if not error.too_much:
            raise
        return False
    return not stretch.ends_on_full_page


def _is_in_order(events: pa.Table, newest: datetime | None) -> bool:
    """True if the events come oldest first, behind what came before, but for an edge: times may be rounded."""
    if not events.num_rows:
        return True
    times, edge = events["timestamp"].combine_chunks().cast(pa.int64()), EDGE // TICK
    first = times[0].as_py() if newest is None else (newest - _EPOCH) // TICK
    if pc.min(times).as_py() < first - edge:
        return False
    steps = pc.min(pc.subtract(times[1:], times[:-1])).as_py()
    return steps is None or steps >= -edge


def _without(events: pa.Table, keys: Collection[_Key]) -> pa.Table:
    return events.filter(pa.array([key not in keys for key in _keys(events)], pa.bool_())) if keys else events


def _keys(events: pa.Table) -> list[_Key]:
    return list(zip(events["event_id"].to_pylist(), events["timestamp"].cast(pa.int64()).to_pylist(), strict=True))
