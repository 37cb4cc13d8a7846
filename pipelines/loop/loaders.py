"""A thread for each destination, so that a slow one holds back no other. One task at a time; none can hang for ever."""

import faulthandler
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.fetch.api import Clock
from pipelines.fetch.reading import Step
from pipelines.load.loader import Loader
from sources.cloudflare_audit_logs import Batch, Position
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Stream

from .cycle import Cycle
from .schedule import Busy
from .threads import Threads

DEADLINE_SECONDS = 900
"""A load that takes longer hangs (an error that dlt cannot see): the process ends, and the next one goes on."""


@dataclass(frozen=True)
class LoadedStep:
    """A step that a destination has loaded."""

    destination: str
    step: Step
    new: Mapping[Stream, Batch]
    positions: Mapping[Stream, Position]
    """The cursors of the destination after the load."""
    is_sweep: bool
    begun: datetime
    """The begin of its poll or sweep."""
    finished: datetime
    load_seconds: float


class Loaders:
    """Opens destinations, and loads steps into them. Used by one thread."""

    def __init__(
        self,
        destinations: Iterable[Loader],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._threads = {
            destination: Threads[Cycle | None](destination.name, monotonic) for destination in destinations
        }
        """A task is about the cycle whose step is loaded; None: the destination is opened."""

    def close(self) -> None:
        """Waits for the openings and loads under way."""
        while wait(self.futures, 0.5).not_done:
            self._end_process_if_one_hangs()
        for threads in self._threads.values():
            threads.close()

    @property
    def futures(self) -> list["Future[Any]"]:
        """The openings and loads under way."""
        return [future for threads in self._threads.values() for future in threads.futures]

    def busy(self, under_way: Container[Cycle]) -> dict[Loader, Busy]:
        """Returns the task of each destination that has one under way, or not collected yet."""
        now, tasks = self._monotonic(), [(d, task) for d, threads in self._threads.items() for task in threads.tasks]
        return {d: Busy(now - t.begun, is_opening=not t.subject, is_last=t.subject not in under_way) for d, t in tasks}

    def open(self, destination: Loader) -> None:
        """Opens a destination that is not busy."""
        self._submit(destination, None, destination.open)

    def load(self, destination: Loader, step: Step, cycle: Cycle) -> None:
        """Loads a step of a cycle into a destination that is not busy."""

        def load() -> LoadedStep:
            begun = self._monotonic()
            new = destination.load_late(step) if cycle.is_sweep else destination.load(step)
            seconds, finished = self._monotonic() - begun, self._clock()
            positions = {stream: position for stream in step.parts if (position := destination.position(stream))}
            return LoadedStep(destination.name, step, new, positions, cycle.is_sweep, cycle.begun, finished, seconds)

        self._submit(destination, cycle, load)

    def collect(self) -> list[tuple[Loader, "Future[LoadedStep | None]"]]:
        """Returns the openings and loads that have ended since the last time."""
        self._end_process_if_one_hangs()
        return [(d, task.future) for d, threads in self._threads.items() for task in threads.collect()]

    def _submit(self, destination: Loader, cycle: Cycle | None, do: Callable[[], LoadedStep | None]) -> None:
        def work() -> LoadedStep | None:
            try:
                return do()
            except AuditLogsError:
                destination.close()
                raise

        self._threads[destination].submit(cycle, work)

    def _end_process_if_one_hangs(self) -> None:
        """With a traceback of every thread."""
        if any(threads.overdue(DEADLINE_SECONDS) for threads in self._threads.values()):
            faulthandler.dump_traceback(all_threads=True)
            os._exit(1)
