"""One pass over the API for the destinations that share it: each page is fetched and decoded once for all of them.

A long window goes in steps that can be loaded by themselves, and reading goes on in memory from step to step. A step
is bounded by the events that some destination lacks, so memory and lost work are bounded whatever the window. Only
ascending reading can be cut into steps: `desc` orders a window that fits one step, and is given up for `asc` when it
does not.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow.compute as pc

from sources.cloudflare_audit_logs import Batch, Stream
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.streams import Window

from .destination import Destination

FetchPages = Callable[[Stream, Window, str], Iterator[Page]]
"""Reads a window of a stream in a direction, page by page, to its end."""


@dataclass(frozen=True)
class StepLimits:
    """When a step is full. Known events count a tenth: a stretch of them still commits its cursor now and then."""

    events: int = 20_000
    bytes: int = 64 * 1024 * 1024


DEFAULT_LIMITS = StepLimits()


@dataclass
class Step:
    """What one load brings: by destination and stream, what the destination lacks."""

    batches: dict[Destination, dict[Stream, Batch]]
    fill: float = 0.0
    """How full it is: 1 is full."""
    read: int = 0
    """Events read from the API, known ones included."""
    finished: list[Stream] = field(default_factory=list)
    """Streams whose window ends with this step."""

    def drop(self, stream: Stream) -> None:
        """Takes out what was read of a stream whose window broke off: it counts only when read whole."""
        for batches in self.batches.values():
            batches.pop(stream, None)


class Reading:
    """The windows of some streams, for some destinations; an iterator of steps, to be loaded one by one."""

    def __init__(
        self,
        fetch_pages: FetchPages,
        windows: Mapping[Stream, Window],
        destinations: Mapping[Destination, Mapping[Stream, datetime]],
        *,
        direction: str = "asc",
        limits: StepLimits = DEFAULT_LIMITS,
    ) -> None:
        self.failures: dict[Stream, AccountError] = {}
        """Streams whose window could not be read, and why."""
        self.broken: dict[Destination, AuditLogsError] = {}
        """Destinations that could not say what they lack, and why."""
        self._fetch_pages, self._windows, self._direction, self._limits = fetch_pages, windows, direction, limits
        self._since = destinations
        self._openings = {destination: destination.opening for destination in destinations}
        self._newest: dict[Stream, datetime] = {}
        self._unordered: set[Stream] = set()
        """Streams that do not come oldest first, as asked: their cursor waits for the end of the window."""

    @property
    def destinations(self) -> list[Destination]:
        """Those that the reading is still for: not the ones that failed or were opened anew since it began."""
        return [
            d for d, opening in self._openings.items() if d.is_open and d.opening == opening and d not in self.broken
        ]

    def steps(self) -> Iterator[Step]:
        """Yields full steps while reading, and the rest at the end."""
        step = self._new_step()
        for stream, window in self._windows.items():
            direction = self._direction
            try:
                if direction == "desc" and not self._fits_one_step(stream, window, step):
                    direction = "asc"
                if direction == "asc":
                    for page in self._fetch_pages(stream, window, "asc"):
                        self._add(step, stream, page, window)
                        if step.fill >= 1:
                            yield step
                            step = self._new_step()
                self._finish(step, stream)
            except AccountError as error:
                step.drop(stream)
                self.failures[stream] = error
        yield step

    def _fits_one_step(self, stream: Stream, window: Window, step: Step) -> bool:
        """Reads the window newest first into the step; if that fills it, takes all of it out again and says so."""
        before = step.fill, step.read
        for page in self._fetch_pages(stream, window, "desc"):
            self._add(step, stream, page, window)
            if step.fill >= 1:
                step.drop(stream)
                step.fill, step.read = before
                self._newest.pop(stream)
                self._unordered.discard(stream)
                return False
        return True

    def _new_step(self) -> Step:
        return Step({destination: {} for destination in self.destinations})

    def _add(self, step: Step, stream: Stream, page: Page, window: Window) -> None:
        step.read += page.events.num_rows
        self._note_order(stream, page, window.before)
        most = page.events.num_rows / 10 / self._limits.events
        for destination in [d for d in self.destinations if d in step.batches]:
            since = self._since[destination][stream]
            try:
                lacking = destination.lacking(stream, page, window.before)
            except AccountError:
                raise
            except AuditLogsError as error:
                self.broken[destination] = error
                continue
            batch = step.batches[destination].setdefault(stream, Batch(since=since, cursor=since))
            batch.cursor = since if stream in self._unordered else max(since, self._newest.get(stream, since))
            if lacking.events.num_rows:
                batch.events.append(lacking.events)
            if lacking.quarantined.num_rows:
                batch.quarantined.append(lacking.quarantined)
            most = max(most, lacking.events.num_rows / self._limits.events, lacking.events.nbytes / self._limits.bytes)
        step.fill += most

    def _finish(self, step: Step, stream: Stream) -> None:
        step.finished.append(stream)
        for destination in [d for d in self.destinations if d in step.batches]:
            since = self._since[destination][stream]
            batch = step.batches[destination].setdefault(stream, Batch(since=since, cursor=since))
            batch.cursor = max(since, self._newest.get(stream, since))

    def _note_order(self, stream: Stream, page: Page, before: datetime) -> None:
        """A cursor may pass only what was read; whether more is to come below it, the order of the pages says."""
        times = page.events["timestamp"].filter(pc.less(page.events["timestamp"], before))
        if not len(times):
            return
        bounds = pc.min_max(times).as_py()
        newest = self._newest.get(stream, bounds["min"])
        if bounds["min"] < newest or times[0].as_py() > times[-1].as_py():
            self._unordered.add(stream)
        self._newest[stream] = max(newest, bounds["max"])
