"""Reads a window whole, however long or full it is, though the API may show less than all of it. Pure.

A window is read in stretches, one query each, oldest first. No query is deeper than a step, unless a single second
holds more: the next one begins at the newest time reached, less a second, and events shown before are left out by their
key. An end on full pages is not believed: the rest is asked for from there. A query that is too much is made smaller
(`reach`). Where one instant holds more than the API shows, the rest is read nevertheless, and `HiddenEventsError` ends
the reading.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .errors import AccountError, BadAnswerError, HiddenEventsError
from .events import EventKey, Page, event_keys
from .reach import COMMON_CAP, EDGE, EPOCH, TICK, Reach, Stretch, step_back, without
from .streams import Window

Ask = Callable[[Window, str, int, Callable[[], bool]], Iterator[Page]]
"""Queries a window: its direction, the events of a page, whether what may be too much is retried. Yields pages."""

MOST_IDLE = 200
"""Queries one after the other that reach no later time: a few dozen are right where much is refused."""


def read_whole(ask: Ask, window: Window, reach: Reach, direction: str) -> Iterator[Page]:
    """Yields the events of a window, each at least once, in pages; `asc`: oldest first, as far as the API keeps order.

    A window asked for newest first that does not come whole in one query is read again oldest first.

    Raises:
        AccountError: the window could not be read; the pages yielded so far are a part of it.
        HiddenEventsError: all that the API shows was yielded, and it does not show all.
    """
    if direction == "desc" and reach.window(window.since, window.before) == window:
        stretch = Stretch(window, reach.page)
        try:
            for page in ask(window, "desc", reach.page, lambda: stretch.pages > 0 or reach.is_patient):
                stretch.add(page)
                yield page
        except AccountError as error:
            if not error.too_much:
                raise
            stretch.error = error
        if not stretch.error and not stretch.ends_on_full_page:
            return
    yield from _Reading(ask, window, reach).pages()


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
        self._position, self._edge = window.since - TICK, EDGE
        """Everything up to this time was read, of what is shown in order; the next query begins an edge before it."""
        self._recent: set[EventKey] = set()
        """The keys of the events read from an `EDGE` before the position on."""
        self._is_ordered = self._is_exact = True
        """Times do not go back by more than a second; not at all."""
        self._suspect: int | None = None
        """The last stretch ended with so many events, on a full page."""
        self._instant: _Instant | None = None
        self._hidden: list[datetime] = []
        self._is_done = False

    def pages(self) -> Iterator[Page]:
        """All that the API shows."""
        idle = 0
        while not self._is_done:
            reached = self._position
            since = max(self._window.since, reached - self._edge)
            stretch = Stretch(self._reach.window(since, self._window.before), self._reach.page)
            yield from self._read(stretch)
            self._go_on(stretch)
            self._remember(stretch)
            self._reach.most_shown = max(self._reach.most_shown, stretch.shown)
            idle = 0 if self._position > reached else idle + 1
            if idle > MOST_IDLE:
                raise BadAnswerError("the API answers without end", detail=f"at {reached.isoformat()}")
        if self._hidden:
            raise HiddenEventsError(self._hidden)

    # --- one stretch ------------------------------------------------------------------------------------------------

    def _read(self, stretch: Stretch) -> Iterator[Page]:
        is_patient = lambda: stretch.pages > 0 or self._reach.is_patient  # noqa: E731  # asked before each request
        try:
            for page in self._ask(stretch.asked, "asc", stretch.per_page, is_patient):
                if not stretch.pages:
                    self._reach.note_answer(stretch.length, page.events.nbytes + page.quarantined.nbytes)
                fresh = self._take(stretch, page)
                if fresh.num_rows or page.quarantined.num_rows:
                    yield Page(fresh, page.quarantined)
                if self._is_deep_enough(stretch):
                    stretch.is_cut = True
                    return
        except AccountError as error:
            if not error.too_much:
                raise
            stretch.error = error
        else:
            if not stretch.pages:
                self._reach.note_answer(stretch.length, 0)

    def _take(self, stretch: Stretch, page: Page) -> pa.Table:
        """The events of the page that the stretch before did not show."""
        events = page.events
        if events.num_rows:
            bounds = pc.min_max(events["timestamp"]).as_py()
            if bounds["min"] <= self._position:
                events = without(events, self._recent)
            self._note_order(stretch, events)
            is_far = bounds["max"] - (stretch.oldest or bounds["min"]) > EDGE
            self._reach.has_shown_order |= self._is_ordered and is_far
            stretch.newest = max(stretch.newest or bounds["max"], bounds["max"])
            stretch.oldest = min(stretch.oldest or bounds["min"], bounds["min"])
        stretch.add(page)
        stretch.fresh += events.num_rows
        return events

    def _note_order(self, stretch: Stretch, events: pa.Table) -> None:
        back = step_back(events, stretch.newest)
        self._is_exact = self._is_exact and not back
        if self._is_ordered and back > EDGE:
            # Pages that drift show some events twice: those say nothing of the order.
            seen = {key for keys in stretch.keys for key in event_keys(keys)}
            self._is_ordered = step_back(without(events, seen), stretch.newest) <= EDGE

    @property
    def _trusts_order(self) -> bool:
        """True if all that was not shown comes behind the newest time, less the overlap."""
        return self._is_ordered and self._reach.span >= 2 * EDGE

    def _has_moved(self, stretch: Stretch) -> bool:
        return self._trusts_order and stretch.newest is not None and stretch.newest > self._position

    def _is_deep_enough(self, stretch: Stretch) -> bool:
        is_deep = stretch.shown + stretch.per_page > self._reach.depth
        has_more = stretch.last >= min(stretch.per_page, COMMON_CAP)
        may_end = has_more and (is_deep or stretch.per_page != self._reach.page)
        return may_end and self._reach.has_shown_order and self._has_moved(stretch)

    # --- what follows -----------------------------------------------------------------------------------------------

    def _go_on(self, stretch: Stretch) -> None:
        """Decides where the next stretch begins, and how much it asks for.

        Raises:
            AccountError: the stretch failed, and there is nothing smaller to ask for.
        """
        reach, error = self._reach, stretch.error
        is_refused = error is not None and error.too_much == "window"
        self._note(stretch)
        if self._has_moved(stretch) and not reach.has_shown_order:
            self._is_ordered = self._is_nothing_before(stretch)

        if self._is_whole(stretch):
            self._pass(stretch)
        elif self._has_moved(stretch):
            if is_refused:
                reach.depth = min(reach.depth, stretch.shown)
            elif error is None and not stretch.is_cut:
                self._suspect = stretch.shown
            self._position, self._edge = stretch.newest or self._position, EDGE
        elif self._trusts_order and self._is_exact and stretch.newest and (is_refused or error is None):
            self._look_closer(stretch, is_refused=is_refused)
        elif error is not None:
            self._ask_for_less(stretch, error)
        elif stretch.shown < reach.most_shown:
            self._pass(stretch)
        # Without an order of time, a limit shows by this alone: parts of the window show more than the whole.
        elif not reach.shorten(stretch.length):
            self._hidden += [stretch.asked.since] if stretch.shown % COMMON_CAP == 0 else []
            self._pass(stretch)

    def _note(self, stretch: Stretch) -> None:
        """Events not seen before say of the stretches before this one that there is more than they showed."""
        if stretch.fresh and self._suspect is not None:
            self._reach.depth = min(self._reach.depth, self._suspect)
        if stretch.fresh and self._instant is not None:
            self._hidden.append(self._instant.time)
            self._instant = None
        self._suspect = None

    def _is_whole(self, stretch: Stretch) -> bool:
        """True if no limit of results ended the stretch, which did not fail: the API has shown more events at once.

        An end that can be asked once more is asked, whatever was shown before.
        """
        if stretch.error is not None or stretch.is_cut:
            return False
        has_shown_more = not stretch.fresh and stretch.shown < self._reach.most_shown
        return not stretch.ends_on_full_page or (has_shown_more and not self._has_moved(stretch))

    def _pass(self, stretch: Stretch) -> None:
        """The stretch was read to its end, and if it came behind an instant, nothing shows that this held more."""
        self._settle()
        self._is_done = stretch.asked.before >= self._window.before
        # No order was relied on, so no overlap of times is needed: with one, short ranges would never go on.
        self._position, self._edge = stretch.asked.before, TICK

    def _settle(self) -> None:
        """Nothing came behind an instant: it held more than it showed if more was refused, or a round number shown."""
        instant, self._instant = self._instant, None
        if instant is not None:
            is_round = instant.shown % COMMON_CAP == 0 and instant.shown >= self._reach.most_shown
            self._hidden += [instant.time] if instant.is_refused or is_round else []

    def _look_closer(self, stretch: Stretch, *, is_refused: bool) -> None:
        """All events are of the newest time reached: asks once more, then from that time on, then from behind it."""
        if stretch.fresh:
            return
        if self._instant is None and self._edge == EDGE:
            self._edge = TICK
        elif is_refused and stretch.shown < COMMON_CAP and self._reach.page > 1:
            self._reach.shrink(stretch.length, page_alone=True)  # the page may be what reaches beyond a low limit
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

    def _ask_for_less(self, stretch: Stretch, error: AccountError) -> None:
        """Makes the next query smaller, once a very small one has shown that anything is answered at all."""
        since, is_page = stretch.asked.since, error.too_much == "page"
        if not is_page and self._reach.is_patient:
            is_answered, _ = self._probe(Window(since, min(since + EDGE, stretch.asked.before)))
            if not is_answered:
                raise error
        if not self._reach.shrink(stretch.length, page_alone=is_page):
            raise error

    def _is_nothing_before(self, stretch: Stretch) -> bool:
        """Events of a single second say nothing of the order: asks for what should have come before them."""
        is_short = not (stretch.error or stretch.ends_on_full_page)
        if is_short or stretch.oldest is None or stretch.oldest <= stretch.asked.since:
            return True
        is_answered, page = self._probe(Window(stretch.asked.since, stretch.oldest))
        is_empty = page is None or not pc.any(pc.less(page.events["timestamp"], stretch.oldest)).as_py()
        return is_answered and is_empty

    def _probe(self, window: Window) -> tuple[bool, Page | None]:
        """Asks for one event: whether that is answered, and its page."""
        try:
            return True, next(self._ask(window, "asc", 1, lambda: False), None)
        except AccountError as error:
            if not error.too_much:
                raise
            return False, None

    def _remember(self, stretch: Stretch) -> None:
        since = self._position - EDGE
        lowest = (since - EPOCH) // TICK
        self._recent = {key for key in self._recent if key[1] >= lowest}
        for keys in stretch.keys:
            self._recent.update(event_keys(keys.filter(pc.greater_equal(keys["timestamp"], since))))
