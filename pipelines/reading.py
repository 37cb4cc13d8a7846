"""One pass over the API: each page is fetched and decoded once, for whoever loads it. Knows no destination.

A long window goes in steps that can be loaded by themselves, and reading goes on in memory from step to step, so
memory and lost work are bounded whatever the window. Only ascending reading can be cut into steps: `desc` orders a
window that fits one step, and is given up for `asc` when it does not.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs.errors import AccountError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.streams import Stream, Window

FetchPages = Callable[[Stream, Window, str], Iterator[Page]]
"""Reads a window of a stream in a direction, page by page, to its end."""


_EDGE = timedelta(seconds=1)


def fetch_exactly(fetch_pages: FetchPages) -> FetchPages:
    """The same with the events of `[since, before)`, whether or not the API includes these times itself."""

    def fetch(stream: Stream, window: Window, direction: str) -> Iterator[Page]:
        for page in fetch_pages(stream, Window(window.since - _EDGE, window.before + _EDGE), direction):
            yield Page(within(page.events, window), page.quarantined)

    return fetch


def within(events: pa.Table, window: Window) -> pa.Table:
    """The events of a window."""
    time = events["timestamp"]
    return events.filter(pc.and_(pc.greater_equal(time, window.since), pc.less(time, window.before)))


@dataclass(frozen=True)
class StepLimits:
    """When a step is full: 20 requests, and what they weigh."""

    events: int = 10_000
    bytes: int = 64 * 1024 * 1024


DEFAULT_LIMITS = StepLimits()


@dataclass
class Part:
    """What a step holds of the window of one stream."""

    window: Window
    pages: list[Page] = field(default_factory=list)
    reached: datetime | None = None
    """Everything in the window up to this time was read; None as long as that is not known of any time."""
    is_last: bool = False
    """The window was read to its end."""


@dataclass
class Step:
    """What one load brings."""

    parts: dict[Stream, Part] = field(default_factory=dict)
    events: int = 0
    bytes: int = 0
    is_last: bool = False
    """No other step of the reading follows, whether or not all windows were read to their end."""

    @property
    def finished(self) -> list[Stream]:
        """The streams whose window ends with this step."""
        return [stream for stream, part in self.parts.items() if part.is_last]


class Reading:
    """The windows of some streams, read one after the other; an iterator of steps, to be loaded one by one."""

    def __init__(
        self,
        fetch_pages: FetchPages,
        windows: Mapping[Stream, Window],
        *,
        direction: str = "asc",
        limits: StepLimits = DEFAULT_LIMITS,
    ) -> None:
        self.failures: dict[Stream, AccountError] = {}
        """Streams whose window could not be read, and why."""
        self._fetch_pages, self._windows, self._direction, self._limits = fetch_pages, windows, direction, limits
        self._newest: dict[Stream, datetime] = {}
        self._unordered: set[Stream] = set()
        """Streams that do not come oldest first, as asked: nothing is known to be reached before the window's end."""

    def steps(self) -> Iterator[Step]:
        """Yields full steps while reading, and the rest at the end."""
        step = Step()
        for stream, window in self._windows.items():
            try:
                if self._direction == "asc" or not self._fits_one_step(stream, window, step):
                    for page in self._fetch_pages(stream, window, "asc"):
                        self._add(step, stream, page)
                        if self._is_full(step):
                            yield step
                            step = Step()
                part = step.parts.setdefault(stream, Part(window))
                part.reached, part.is_last = self._newest.get(stream), True
            except AccountError as error:
                # It counts only when read whole: what came in earlier steps stands, the rest is read again.
                step.parts.pop(stream, None)
                self.failures[stream] = error
        step.is_last = True
        yield step

    def _fits_one_step(self, stream: Stream, window: Window, step: Step) -> bool:
        """Reads the window newest first into the step; if that fills it, takes all of it out again and says so."""
        before = step.events, step.bytes
        for page in self._fetch_pages(stream, window, "desc"):
            self._add(step, stream, page)
            if self._is_full(step):
                step.parts.pop(stream)
                step.events, step.bytes = before
                self._newest.pop(stream, None)
                self._unordered.discard(stream)
                return False
        return True

    def _is_full(self, step: Step) -> bool:
        return step.events >= self._limits.events or step.bytes >= self._limits.bytes

    def _add(self, step: Step, stream: Stream, page: Page) -> None:
        """Adds a page; events at or after `before` wait for their window: they would move a cursor into the future."""
        window = self._windows[stream]
        step.events += page.events.num_rows
        step.bytes += page.events.nbytes + page.quarantined.nbytes
        in_time = pc.less(page.events["timestamp"], window.before)
        if not pc.all(in_time).as_py():  # filtering copies, into half as much memory again
            page = Page(page.events.filter(in_time), page.quarantined)
        self._note_order(stream, page)
        part = step.parts.setdefault(stream, Part(window))
        part.pages.append(page)
        part.reached = None if stream in self._unordered else self._newest.get(stream)

    def _note_order(self, stream: Stream, page: Page) -> None:
        """A cursor may pass only what was read; whether more is to come below it, the order of the pages says."""
        times = page.events["timestamp"]
        if not len(times):
            return
        bounds = pc.min_max(times).as_py()
        newest = self._newest.get(stream, bounds["min"])
        if bounds["min"] < newest or times[0].as_py() > times[-1].as_py():
            self._unordered.add(stream)
        self._newest[stream] = max(newest, bounds["max"])
