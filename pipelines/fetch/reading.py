"""A window of a stream, read page by page: each page is fetched and decoded once, for all destinations that load it.

A long window is read in parts that can be loaded by themselves, so memory and lost work are bounded however long it is.
Parts of several streams make a step, which one load brings. Only ascending reading can be cut: a window that is asked
for newest first and does not fit one part is read again oldest first. Knows no destination.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs.errors import HiddenEventsError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.files import PageFile
from sources.cloudflare_audit_logs.reach import EDGE, step_back
from sources.cloudflare_audit_logs.streams import Stream, Window

FetchPages = Callable[[Stream, Window, str], Iterator[Page]]
"""Reads a window of a stream in a direction, page by page, to its end."""


def fetch_exactly(fetch_pages: FetchPages) -> FetchPages:
    """The same with the events of `[since, before)`, whether or not the API includes these times itself."""

    def fetch(stream: Stream, window: Window, direction: str) -> Iterator[Page]:
        try:
            for page in fetch_pages(stream, Window(window.since - EDGE, window.before + EDGE), direction):
                yield Page(within(page.events, window), page.quarantined)
        except HiddenEventsError as error:
            if instants := [instant for instant in error.instants if window.since <= instant < window.before]:
                raise HiddenEventsError(instants) from error

    return fetch


def within(events: pa.Table, window: Window) -> pa.Table:
    """The events of a window."""
    time = events["timestamp"]
    return events.filter(pc.and_(pc.greater_equal(time, window.since), pc.less(time, window.before)))


@dataclass(frozen=True)
class StepLimits:
    """The size at which a step, or a part of it, is full."""

    events: int = 50_000
    """50 requests: more make a run of dlt (80 to 90 ms of CPU) hardly cheaper, and are read again after a kill."""
    bytes: int = 320 * 1024 * 1024

    def shared_by(self, streams: int) -> "StepLimits":
        """The limits of each of so many streams that are read side by side."""
        return StepLimits(max(1, self.events // streams), max(1, self.bytes // streams))

    @property
    def in_memory(self) -> "StepLimits":
        """The part of it that is in memory before it goes to disk."""
        return StepLimits(min(self.events, MEMORY_LIMITS.events), min(self.bytes, MEMORY_LIMITS.bytes))


MEMORY_LIMITS = StepLimits(2_000, 16 * 1024 * 1024)
DEFAULT_LIMITS = StepLimits()


@dataclass
class Part:
    """The pages of one stream's window that a step brings."""

    window: Window
    pages: list[Page | PageFile] = field(default_factory=list)
    reached: datetime | None = None
    """Everything in the window up to this time was read; None as long as that is not known of any time."""
    is_last: bool = False
    """The window was read to its end."""
    events: int = 0
    bytes: int = 0
    rows: int = 0
    """Events, quarantined ones included."""

    def add(self, page: Page) -> None:
        """Adds a page."""
        self.pages.append(page)
        self.rows += page.events.num_rows + page.quarantined.num_rows
        self.events += page.events.num_rows
        self.bytes += page.events.nbytes + page.quarantined.nbytes

    def is_full(self, limits: StepLimits) -> bool:
        """True if the limits allow no more of it."""
        return self.events >= limits.events or self.bytes >= limits.bytes

    def followed_by(self, next_part: "Part") -> "Part":
        """Both as one."""
        size = self.events + next_part.events, self.bytes + next_part.bytes, self.rows + next_part.rows
        return Part(self.window, self.pages + next_part.pages, next_part.reached, next_part.is_last, *size)


@dataclass
class Step:
    """The parts that one load brings."""

    parts: dict[Stream, Part] = field(default_factory=dict)
    events: int = 0
    bytes: int = 0
    is_last: bool = False
    """No other step of the poll follows, whether or not all windows were read to their end."""

    @property
    def finished(self) -> list[Stream]:
        """The streams whose window ends with this step."""
        return [stream for stream, part in self.parts.items() if part.is_last]

    def add(self, stream: Stream, part: Part) -> None:
        """Adds a part of a stream."""
        self.parts[stream] = self.parts[stream].followed_by(part) if stream in self.parts else part
        self.events += part.events
        self.bytes += part.bytes

    def is_full(self, limits: StepLimits) -> bool:
        """True if it is enough for one load."""
        return self.events >= limits.events or self.bytes >= limits.bytes


class StreamReading:
    """The parts of one window, read one after the other."""

    def __init__(
        self,
        fetch_pages: FetchPages,
        stream: Stream,
        window: Window,
        *,
        direction: str = "asc",
        limits: StepLimits = MEMORY_LIMITS,
    ) -> None:
        self._window, self._limits = window, limits
        self._fetch_pages = partial(fetch_pages, stream, window)
        self._is_ascending = direction == "asc"
        self._pages: Iterator[Page] | None = None
        self._newest: datetime | None = None
        self._back = timedelta()
        """The largest step back of its times. More than an edge: they do not come oldest first, as asked."""
        self._hidden: HiddenEventsError | None = None
        """All that the API shows was read, and it does not show all: the last part is followed by this error."""

    def parts(self) -> Iterator[Part]:
        """All of them."""
        while not (part := self.read()).is_last:
            yield part
        yield part

    def read(self) -> Part:
        """The next one: what the limits allow, or the rest. Not to be called again after the last, or after an error.

        Raises:
            AuditLogsError: it could not be read. It counts only when read whole: the parts before it stay.
        """
        if self._hidden is not None:
            raise self._hidden
        if self._pages is None and not self._is_ascending:
            part = self._take(self._fetch_pages("desc"))
            if part.is_last or self._hidden:
                return part
            self._newest, self._back = None, timedelta()  # more than a part may hold: read again oldest first
        self._pages = self._pages or self._fetch_pages("asc")
        return self._take(self._pages)

    def _take(self, pages: Iterator[Page]) -> Part:
        """Pages until the part is full, or the window ends. Events at or after `before` wait for their window."""
        part = Part(self._window)
        try:
            for page in pages:
                in_time = pc.less(page.events["timestamp"], self._window.before)
                if not pc.all(in_time).as_py():  # filtering copies, into half as much memory again
                    page = Page(page.events.filter(in_time), page.quarantined)  # noqa: PLW2901
                if page.events.num_rows:
                    self._back = max(self._back, step_back(page.events, self._newest))
                    newest = pc.max(page.events["timestamp"]).as_py()
                    self._newest = max(self._newest or newest, newest)
                part.add(page)
                if part.is_full(self._limits):
                    part.reached = self._reached
                    return part
        except HiddenEventsError as error:
            self._hidden = error
        part.reached, part.is_last = self._newest, self._hidden is None
        return part

    @property
    def _reached(self) -> datetime | None:
        """Up to here everything was read, though more is to come: an API that rounds times goes back by an edge.

        A cursor may pass only what was read; whether more is to come below it, the order of the pages says.
        """
        if self._newest is None or self._back > EDGE:
            return None
        return self._newest - EDGE if self._back else self._newest
