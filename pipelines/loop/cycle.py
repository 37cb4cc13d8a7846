"""A cycle: windows of some streams are read in parts, side by side; the parts are joined to steps to be loaded."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial

from pipelines.fetch.api import FetchUntil
from pipelines.fetch.reading import Part, Step, StepLimits, StreamReading
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool, SpooledReading
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.streams import Stream, Window

READERS = 32
"""Threads that read. They mostly wait for answers; what a thousand quiet accounts take: docs/scale/many.md."""

GATHERING_SECONDS = 2
"""In a step that is not full, a stream that was read to its end waits so long for those that are still being read."""

LONG_GATHERING_SECONDS = 30
"""A part of a long window waits so long: the fewer runs of dlt, the better, and nobody waits for its middle."""


class Cycle:
    """A poll or a sweep. Used by one thread; the readings are read by others."""

    def __init__(
        self,
        windows: Mapping[Stream, Window],
        destinations: Iterable[Loader],
        fetch_pages: FetchUntil,
        spool: Spool,
        settings: Settings,
        *,
        queue_of: Callable[[Stream], str],
        limits: StepLimits,
        begun: datetime,
        is_sweep: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.begun, self.is_sweep, self._monotonic = begun, is_sweep, monotonic
        self.destinations = list(destinations)
        """The destinations that load its steps."""
        self.stop = threading.Event()
        """Set when nobody waits for the events any more: reading ends between two pages, or while it waits."""
        self._queue_of, self._limits = queue_of, limits
        self._limits_of_part = limits.shared_by(2 * min(len(windows), READERS))
        self._readings = {
            stream: SpooledReading(
                spool,
                StreamReading(
                    partial(fetch_pages, until=self.stop),
                    stream,
                    window,
                    direction=settings.account(stream.account_id).direction,
                    limits=self._limits_of_part.in_memory,
                ),
                self._limits_of_part,
                clock=monotonic,
            )
            for stream, window in windows.items()
        }
        self._reading: set[Stream] = set()
        self._waiting: dict[str, deque[Stream]] = {}
        """To be read on, by queue: a token's streams are in one."""
        for stream in windows:
            self._queue(stream)
        self.created = monotonic()
        self.step = Step()
        """The one to be loaded next."""
        self._step_begun = math.inf
        self.due_since = math.inf
        """The time at which the next step became ready to be loaded; infinite as long as it is not."""

    @property
    def streams(self) -> set[Stream]:
        """The streams that are not read to the end."""
        return self._reading.union(*self._waiting.values())

    @property
    def is_read(self) -> bool:
        """True if nothing more is to be read."""
        return not self._reading and not self._waiting

    @property
    def is_due(self) -> bool:
        """True if a step is to be loaded: a full one, the last one, or one that has waited for others long enough."""
        if self.due_since == math.inf and (self.is_read or self.step.is_full(self._limits) or self._has_gathered()):
            self.due_since = self._monotonic()
        return self.due_since < math.inf

    def _has_gathered(self) -> bool:
        seconds = GATHERING_SECONDS if self.step.finished else LONG_GATHERING_SECONDS
        return not self.is_sweep and self._monotonic() >= self._step_begun + seconds

    def next_reading(self, has_room_for: Callable[[str], bool]) -> tuple[str, Stream, SpooledReading] | None:
        """Takes a stream of the queue that waits longest and has room; returns queue, stream and reading.

        None without room for what it brings, beside what is to be loaded.
        """
        coming = self.step.events + len(self._reading) * self._limits_of_part.events
        is_full = coming >= self._limits.events or self.step.is_full(self._limits)
        queue = next(filter(has_room_for, self._waiting), None)
        if is_full or queue is None:
            return None
        waiting = self._waiting.pop(queue)
        stream = waiting.popleft()
        if waiting:
            self._waiting[queue] = waiting  # behind the others
        self._reading.add(stream)
        return queue, stream, self._readings[stream]

    def add(self, stream: Stream, part: Part) -> None:
        """Adds a part that was read."""
        self._reading.discard(stream)
        self._step_begun = min(self._step_begun, self._monotonic())
        self.step.add(stream, part)
        if not part.is_last:
            self._queue(stream)

    def drop(self, stream: Stream) -> None:
        """The stream could not be read on."""
        self._reading.discard(stream)

    def give_up(self, which: Callable[[Stream], bool]) -> list[Stream]:
        """Reads the waiting streams of which `which` is true no more, and returns them."""
        waiting = [stream for queue in self._waiting.values() for stream in queue]
        self._waiting.clear()
        for stream in waiting:
            if not which(stream):
                self._queue(stream)
        return [stream for stream in waiting if which(stream)]

    def take_step(self) -> Step:
        """Returns the step that is due, and begins the next one."""
        step, self.step = self.step, Step()
        self._step_begun = self.due_since = math.inf
        step.is_last = self.is_read
        return step

    def _queue(self, stream: Stream) -> None:
        self._waiting.setdefault(self._queue_of(stream), deque()).append(stream)
