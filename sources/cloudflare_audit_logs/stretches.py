"""Reads a window whole, however long or full it is, though the API may show less than all of it. Pure.

A window is read in stretches, one query each, oldest first. No query is deeper than a step, unless a single second
holds more: the next one begins at the newest time reached, less a second, and what was shown before is left out by its
key. An end on full pages is not believed: it is asked once more from there. A query that is too much is made smaller
(`reach`). Where one instant holds more than the API shows, the rest is read nevertheless, and `HiddenEventsError` ends
the reading.
"""

from collections.abc import Callable, Generator, Iterator
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from .errors import AccountError, BadAnswerError, HiddenEventsError
from .events import Page
from .reach import Reach
from .streams import Window
from .stretch import COMMON_CAP, EDGE, EPOCH, TICK, EventKey, Instant, Stretch, keys_of, step_back, without

Ask = Callable[[Window, str, int, Callable[[], bool]], Iterator[Page]]
"""Queries a window: its direction, the events of a page, whether what may be too much is retried. Yields pages."""

MOST_IDLE = 200
"""Queries one after the other that reach no later time: a few dozen are right where much is refused."""

PROBE = timedelta(seconds=1)
"""The window of the one request that shows whether anything is answered at all."""


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


class _Reading:
    """Oldest first."""

    def __init__(self, ask: Ask, window: Window, reach: Reach) -> None:
        self._ask, self._window, self._reach = ask, window, reach
        self._position = window.since - TICK
        """Everything up to this time was read, of what is shown in order."""
        self._edge = EDGE
        self._recent: set[EventKey] = set()
        """The keys of what was read from an edge before the position on."""
        self._is_ordered = self._is_exact = True
        """Times do not go back by more than a second; not at all."""
        self._suspect: int | None = None
        """The last stretch ended with so many events, on a full page."""
        self._instant: Instant | None = None
        self._hidden: list[datetime] = []
        self._is_done = False

    def pages(self) -> Iterator[Page]:
        """All that the API shows."""
        idle = 0
        while not self._is_done:
            reached = self._position
            since = max(self._window.since, self._position - self._edge)
            stretch = Stretch(self._reach.window(since, self._window.before), self._reach.page)
            yield from self._read(stretch)
            self._note(stretch)
            self._go_on(stretch)
            self._reach.most_shown = max(self._reach.most_shown, stretch.shown)
            idle = 0 if self._position > reached else idle + 1
            if idle > MOST_IDLE:
                raise BadAnswerError("the API answers without end", detail=f"at {reached.isoformat()}")
        if self._hidden:
            raise HiddenEventsError(self._hidden)

    # --- one stretch ------------------------------------------------------------------------------------------------

    def _read(self, stretch: Stretch) -> Iterator[Page]:
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

    def _is_patient(self, stretch: Stretch) -> bool:
        return stretch.pages > 0 or self._reach.is_patient

    def _take(self, stretch: Stretch, page: Page) -> Iterator[Page]:
        """Yields what the page has that the stretch before did not show."""
        events, newest = page.events, stretch.newest
        if events.num_rows:
            bounds = pc.min_max(events["timestamp"]).as_py()
            if bounds["min"] <= self._position:
                events = without(events, self._recent)
            self._note_order(stretch, events)
            is_far = bounds["max"] - (stretch.oldest or bounds["min"]) > EDGE
            self._reach.has_shown_order |= self._is_ordered and is_far
            stretch.newest = max(newest or bounds["max"], bounds["max"])
            stretch.oldest = min(stretch.oldest or bounds["min"], bounds["min"])
        stretch.add(page)
        stretch.fresh += events.num_rows
        if events.num_rows or page.quarantined.num_rows:
            yield Page(events, page.quarantined)

    def _note_order(self, stretch: Stretch, events: pa.Table) -> None:
        back = step_back(events, stretch.newest)
        self._is_exact = self._is_exact and not back
        if self._is_ordered and back > EDGE:
            # Pages that drift show some events twice: those say nothing of the order.
            seen = {key for keys in stretch.tables for key in keys_of(keys)}
            self._is_ordered = step_back(without(events, seen), stretch.newest) <= EDGE

    @property
    def _trusts_order(self) -> bool:
        """True if what comes behind the newest time less the overlap is all that was not shown."""
        return self._is_ordered and self._reach.span >= 2 * EDGE

    def _is_deep_enough(self, stretch: Stretch) -> bool:
        is_deep = stretch.shown + stretch.per_page > self._reach.depth
        has_more = stretch.last >= min(stretch.per_page, COMMON_CAP)
        may_end = has_more and (is_deep or stretch.per_page != self._reach.page)
        return may_end and self._reach.has_shown_order and self._has_moved(stretch)

    def _has_moved(self, stretch: Stretch) -> bool:
        return self._trusts_order and stretch.newest is not None and stretch.newest > self._position

    # --- what follows -----------------------------------------------------------------------------------------------

    def _note(self, stretch: Stretch) -> None:
        """What the stretch says of those before it: there is more than they showed."""
        if stretch.fresh and self._suspect is not None:
            self._reach.note_depth(self._suspect)
        if stretch.fresh and self._instant is not None:
            self._hidden.append(self._instant.time)
            self._instant = None
        self._suspect = None

    def _go_on(self, stretch: Stretch) -> None:
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
        elif self._has_moved(stretch):
            self._suspect = stretch.shown
            self._move(stretch, stretch.newest)
        elif self._is_at_instant(stretch):
            self._look_closer(stretch, is_refused=False)
        else:
            self._divide(stretch)

    def _is_at_instant(self, stretch: Stretch) -> bool:
        """True if all events shown are of the newest time reached, or of the second before it, in order."""
        return self._trusts_order and self._is_exact and stretch.newest is not None

    def _has_shown_more(self, stretch: Stretch) -> bool:
        """True if the API has shown more events at once than this time: no limit of results ended this stretch.

        An end that can be asked once more is asked, whatever was shown before.
        """
        return not self._has_moved(stretch) and not stretch.fresh and stretch.shown < self._reach.most_shown

    def _go_on_after(self, stretch: Stretch, error: AccountError) -> None:
        if self._has_moved(stretch):
            if error.too_much == "window":
                self._reach.note_depth(stretch.shown)
            self._move(stretch, stretch.newest)
        elif error.too_much == "window" and self._is_at_instant(stretch):
            self._look_closer(stretch, is_refused=True)
        else:
            self._ask_for_less(stretch, error)

    def _move(self, stretch: Stretch, time: datetime | None, edge: timedelta = EDGE) -> None:
        """The next stretch begins at a time."""
        self._position, self._edge = time or self._position, edge
        self._remember(stretch)

    def _pass(self, stretch: Stretch) -> None:
        """The stretch was read to its end, and if it came behind an instant, nothing shows that this held more."""
        self._settle()
        self._is_done = stretch.asked.before >= self._window.before
        # No order was relied on, so no overlap of times is needed: with one, short ranges would never go on.
        self._move(stretch, stretch.asked.before, TICK)

    def _settle(self) -> None:
        """Nothing came behind an instant: it held more than it showed if more was refused, or a round number shown."""
        instant, self._instant = self._instant, None
        if instant is not None:
            is_round = instant.shown % COMMON_CAP == 0 and instant.shown >= self._reach.most_shown
            self._hidden += [instant.time] if instant.is_refused or is_round else []

    def _look_closer(self, stretch: Stretch, *, is_refused: bool) -> None:
        """No later time was reached: asks once more, then from the instant itself on, then from behind it."""
        self._remember(stretch)
        if stretch.fresh:
            return
        if self._instant is None and self._edge == EDGE:
            self._edge = TICK
        elif is_refused and stretch.shown < COMMON_CAP and self._reach.page > 1:
            self._reach.shrink(stretch.length, page_alone=True)  # the page may be what reaches beyond a low limit
        elif self._instant is None:
            self._instant = Instant(self._position, stretch.shown, is_refused)
            self._position, self._edge = self._position + TICK, timedelta()
        elif self._position < self._instant.time + EDGE:  # the API reckons in seconds: it shows again what we know
            self._position = self._instant.time + EDGE
        else:
            self._pass(stretch)
        if self._position >= self._window.before:
            self._settle()
            self._is_done = True

    def _divide(self, stretch: Stretch) -> None:
        """Without an order of time, a limit shows by this alone: parts of the window show more than the whole."""
        self._remember(stretch)
        if stretch.shown < self._reach.most_shown:
            self._pass(stretch)
        elif not self._reach.shorten(stretch.length):
            self._hidden += [stretch.asked.since] if stretch.shown % COMMON_CAP == 0 else []
            self._pass(stretch)

    def _ask_for_less(self, stretch: Stretch, error: AccountError) -> None:
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

    def _is_nothing_before(self, stretch: Stretch) -> bool:
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

    def _remember(self, stretch: Stretch) -> None:
        since = self._position - EDGE
        lowest = (since - EPOCH) // TICK
        self._recent = {key for key in self._recent if key[1] >= lowest}
        for keys in stretch.tables:
            self._recent.update(keys_of(keys.filter(pc.greater_equal(keys["timestamp"], since))))


def _newest_first(ask: Ask, window: Window, reach: Reach) -> Generator[Page, None, bool]:
    """Yields a window newest first; returns whether it came whole."""
    stretch = Stretch(window, reach.page)
    try:
        for page in ask(window, "desc", reach.page, lambda: stretch.pages > 0 or reach.is_patient):
            stretch.add(page)
            yield page
    except AccountError as error:
        if not error.too_much:
            raise
        return False
    return not stretch.ends_on_full_page
