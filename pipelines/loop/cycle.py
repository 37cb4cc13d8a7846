"""A pass: the windows of some streams, read in parts side by side, which are put together into steps to be loaded."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from pipelines.fetch.api import FetchUntil
from pipelines.fetch.reading import Part, Step, StepLimits, StreamReading
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool, SpooledReading
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs import Batch, Stream
from sources.cloudflare_audit_logs.streams import Window

from .readers import THREADS

Load = Callable[[Step], Mapping[Stream, Batch]]
"""Loads a step into a destination, and returns what was new."""

GATHERING_SECONDS = 2
"""How long a stream that was read to its end waits for others that are still being read, in a step that is not full."""

LONG_GATHERING_SECONDS = 30
"""The same for a part of a long window: the fewer runs of dlt, the better, and nobody waits for the middle of it."""


class Pass:
    """A poll or a sweep. Used by one thread; the readings are read by others."""

    def __init__(
        self,
        windows: Mapping[Stream, Window],
        fetch_pages: FetchUntil,
        spool: Spool,
        settings: Settings,
        loads: dict[Loader, Load],
        *,
        queue_of: Callable[[Stream], str],
        limits: StepLimits,
        begun: datetime,
        is_sweep: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.begun, self.is_sweep, self._monotonic = begun, is_sweep, monotonic
        self.stop = threading.Event()
        """Set when nobody waits for what is read any more: it ends between two pages, and while it waits."""
        self.loads = loads
        """How each destination that takes part loads its steps."""
        self._queue_of, self._limits = queue_of, limits
        self._limits_of_part = limits.shared_by(2 * min(len(windows), THREADS))
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
        self._step = Step()
        self._step_begun: float | None = None
        self.due_since: float | None = None
        """When the next step became ready to be loaded."""

    @property
    def streams(self) -> set[Stream]:
        """Those that are not read to the end."""
        return self._reading.union(*self._waiting.values())

    @property
    def is_read(self) -> bool:
        """True if nothing more is to be read."""
        return not self._reading and not self._waiting

    @property
    def wants_to_read(self) -> bool:
        """True if a stream waits to be read, and there is room for what it brings beside what is to be loaded."""
        coming = self._step.events + len(self._reading) * self._limits_of_part.events
        return bool(self._waiting) and coming < self._limits.events and not self._step.is_full(self._limits)

    @property
    def is_due(self) -> bool:
        """True if a step is to be loaded: a full one, the last one, or one that has waited for others long enough."""
        if self.due_since is None and (self.is_read or self._step.is_full(self._limits) or self._has_gathered()):
            self.due_since = self._monotonic()
        return self.due_since is not None

    def _has_gathered(self) -> bool:
        if self.is_sweep or self._step_begun is None:
            return False
        seconds = GATHERING_SECONDS if self._step.finished else LONG_GATHERING_SECONDS
        return self._monotonic() >= self._step_begun + seconds

    @property
    def due_events(self) -> int:
        """Events of the step that is due."""
        return self._step.events

    def next_reading(self, has_room_for: Callable[[str], bool]) -> tuple[str, Stream, SpooledReading] | None:
        """Of the queue that waits longest and that has room: its name, a stream, and the reading of its next part."""
        queue = next(filter(has_room_for, self._waiting), None)
        if queue is None:
            return None
        waiting = self._waiting.pop(queue)
        stream = waiting.popleft()
        if waiting:
            self._waiting[queue] = waiting  # behind the others
        self._reading.add(stream)
        return queue, stream, self._readings[stream]

    def add(self, stream: Stream, part: Part) -> None:
        """Takes in what was read."""
        self._reading.discard(stream)
        if self._step_begun is None:
            self._step_begun = self._monotonic()
        self._step.add(stream, part)
        if not part.is_last:
            self._queue(stream)

    def drop(self, stream: Stream) -> None:
        """The stream could not be read on."""
        self._reading.discard(stream)

    def give_up(self, which: Callable[[Stream], bool]) -> list[Stream]:
        """Such streams that wait to be read are not read any more."""
        waiting = [stream for queue in self._waiting.values() for stream in queue]
        self._waiting.clear()
        for stream in waiting:
            if not which(stream):
                self._queue(stream)
        return [stream for stream in waiting if which(stream)]

    def take_step(self) -> Step:
        """What is due, to be loaded now."""
        step, self._step = self._step, Step()
        self._step_begun = self.due_since = None
        step.is_last = self.is_read
        return step

    def _queue(self, stream: Stream) -> None:
        self._waiting.setdefault(self._queue_of(stream), deque()).append(stream)
