"""The cycles under way, read side by side. A slow account holds back no other: of one token, only some read at once."""

import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any

from pipelines.fetch.api import StopRequestedError
from pipelines.fetch.reading import Part, Step
from pipelines.load.loader import Loader
from pipelines.load.spool import SpooledReading
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError
from sources.cloudflare_audit_logs.streams import Stream, Window

from .cycle import READERS, Cycle
from .plan import Group
from .threads import Threads

READERS_OF_A_QUEUE = 4
"""One token is one queue: 4 readers send its 4 requests a second. If no answer comes, no more readers wait."""

DOUBTFUL = "failed last"
"""The name of the queue of accounts that failed when they were read last."""
READERS_OF_DOUBTFUL = 8
"""However many do not answer, the others have three quarters of the readers."""


class Cycles:
    """Begins, reads and ends cycles. Used by one thread."""

    def __init__(
        self,
        settings: Settings,
        new_cycle: Callable[..., Cycle],
        doubtful: Container[Stream],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Streams that are `doubtful` wait for each other, whatever their token."""
        self.all: list[Cycle] = []
        """The cycles that were not handed over to the end; the one read least recently is first."""
        self._settings, self._new_cycle, self._doubtful = settings, new_cycle, doubtful
        self._readers = Threads[tuple[Cycle, Stream]]("reader", monotonic)

    def begin(self, windows: Mapping[Group, Mapping[Stream, Window]], now: datetime, *, is_sweep: bool) -> None:
        """Begins a cycle for each group of destinations that share a reading."""
        for group, its_windows in windows.items():
            self.all.append(self._new_cycle(its_windows, group, queue_of=self._queue_of, begun=now, is_sweep=is_sweep))

    def end(self, unwanted: Sequence[Cycle]) -> None:
        """Ends cycles that nobody waits for: no further request is sent for them."""
        for cycle in list(unwanted):
            cycle.stop.set()
            self.all.remove(cycle)

    def leave_out(self, destination: Loader) -> None:
        """Loads nothing more into the destination, and ends the cycles that it alone waited for."""
        for cycle in self.all:
            if destination in cycle.destinations:
                cycle.destinations.remove(destination)
        self.end([cycle for cycle in self.all if not cycle.destinations])

    def close(self) -> None:
        """Ends all of them; waits for nobody."""
        self.end(self.all)
        self._readers.close()

    @property
    def polls(self) -> list[Cycle]:
        """The cycles that are no sweeps."""
        return [cycle for cycle in self.all if not cycle.is_sweep]

    @property
    def in_poll(self) -> set[tuple[Loader, Stream]]:
        """The streams that are being polled: a slow account goes on in its cycle, and the others begin a new one."""
        return {(destination, s) for cycle in self.polls for destination in cycle.destinations for s in cycle.streams}

    @property
    def by_age(self) -> list[Cycle]:
        """The cycles that have a step to be loaded; the one that waits longest is first."""
        return sorted((cycle for cycle in self.all if cycle.is_due), key=lambda cycle: cycle.due_since)

    @property
    def futures(self) -> list["Future[Any]"]:
        """The readings under way."""
        return self._readers.futures

    def read_on(self, *, may_sweep: bool) -> None:
        """Gives the readers that are free something to read, of each cycle in turn."""
        counts = Counter(task.queue for task in self._readers.tasks)

        def has_room_for(queue: str) -> bool:
            return counts[queue] < (READERS_OF_DOUBTFUL if queue == DOUBTFUL else READERS_OF_A_QUEUE)

        while len(self._readers.tasks) < READERS and (found := self._next_reading(has_room_for, may_sweep=may_sweep)):
            cycle, queue, stream, reading = found
            self._readers.submit((cycle, stream), reading.read, queue=queue)
            counts[queue] += 1

    def _next_reading(
        self, has_room_for: Callable[[str], bool], *, may_sweep: bool
    ) -> tuple[Cycle, str, Stream, SpooledReading] | None:
        for cycle in self.all:
            if (may_sweep or not cycle.is_sweep) and (found := cycle.next_reading(has_room_for)):
                self.all.remove(cycle)
                self.all.append(cycle)
                return cycle, *found
        return None

    def collect(self) -> list[tuple[Stream, float, AuditLogsError | None]]:
        """Adds the parts that were read to their cycles. Returns streams, the seconds of reading, and errors."""
        ended = []
        for task in self._readers.collect():
            cycle, stream = task.subject
            if cycle in self.all:
                with suppress(StopRequestedError):
                    ended.append((stream, task.seconds, _added(cycle, stream, task.future)))
        return ended

    def take_step(self, cycle: Cycle) -> Step:
        """Returns the step that is due, to be loaded now; the last one ends the cycle."""
        step = cycle.take_step()
        if step.is_last:
            self.all.remove(cycle)
        return step

    def give_up(self, stream: Stream) -> list[Stream]:
        """Reads the streams no more that wait to be read with the same token; returns them."""
        token_name = self._token_of(stream)
        return [s for cycle in list(self.all) for s in cycle.give_up(lambda s: self._token_of(s) == token_name)]

    def _token_of(self, stream: Stream) -> str:
        return self._settings.account(stream.account_id).token_name

    def _queue_of(self, stream: Stream) -> str:
        return DOUBTFUL if stream in self._doubtful else self._token_of(stream)


def _added(cycle: Cycle, stream: Stream, read: "Future[Part]") -> AuditLogsError | None:
    """Adds a part to its cycle; returns the error if the part could not be read."""
    try:
        cycle.add(stream, read.result())
    except AccountError as error:
        cycle.drop(stream)
        return error
    except AuditLogsError as error:
        return error
    return None
