"""The loop: read what is due, load it into each destination, wait. Everything it remembers may be lost at any time.

The API is read in this thread, a step at a time; each destination opens and loads in a thread of its own, so that one
that is down or slow holds back no other.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sources.cloudflare_audit_logs import Batch, Stream
from sources.cloudflare_audit_logs.errors import AuditLogsError, RateLimitedError, RefusedError
from sources.cloudflare_audit_logs.streams import Window

from .api import StopRequestedError
from .destination import Destination
from .logs import log
from .measurements import LoadedStep
from .reading import DEFAULT_LIMITS, FetchPages, Reading, Step, StepLimits
from .reconciler import Reconciler
from .report import Report
from .settings import Settings
from .sweep import SweepPlan
from .workers import Workers

REFUSED_PAUSE_SECONDS = 300
"""How long an account is left alone that the API refuses: only an operator can mend it."""

SHARED_SPREAD = timedelta(hours=1)
"""Destinations whose windows start this close together share a reading; one that is further behind reads for itself."""

PATIENCE_SECONDS = 10
"""How long one destination waits for another, to open or to load, before it goes on without."""

TASK_DEADLINE_SECONDS = 900
"""A load that takes longer hangs (an error that dlt cannot see): the process ends, and the next one goes on."""


Load = Callable[[Step], Mapping[Stream, Batch]]
"""Loads a step into a destination, and returns what was new."""


@dataclass
class Pass:
    """A reading, and how each destination that takes part loads its steps."""

    reading: Reading
    steps: Iterator[Step]
    loads: dict[Destination, Load]
    begun: datetime
    is_sweep: bool
    step: Step | None = None
    """Read, and not loaded yet."""
    read_at: float = 0.0


class Loop:
    """Polls all streams for all destinations. `stop` ends it after the loads in hand."""

    def __init__(
        self,
        settings: Settings,
        fetch_pages: FetchPages,
        destinations: Sequence[Destination],
        report: Report,
        *,
        clock: Callable[[], datetime],
        stop: threading.Event,
        on_progress: Callable[[Report], None] = lambda _: None,
        limits: StepLimits = DEFAULT_LIMITS,
    ) -> None:
        """Writes into the report, and shows it whenever something was finished, or nothing is left to do."""
        self._report = report
        self._settings, self._fetch_pages, self._destinations = settings, fetch_pages, destinations
        self._clock, self._stop, self._on_progress, self._limits = clock, stop, on_progress, limits
        self._first_begin = settings.first_begin(clock())
        self._sweeps = SweepPlan(settings.sweeps_dir, settings.sweep_interval, settings.sweep_window)
        self._reconciler = Reconciler(settings, clock, stop, report.traffic)
        self._workers: Workers[Destination | Reconciler, tuple[Pass, Step] | None] = Workers(TASK_DEADLINE_SECONDS)
        self._passes: list[Pass] = []
        self._called_at = self._next_poll = time.monotonic()
        self._due: set[Destination] = set()
        """Called to a poll that they have not begun yet."""
        self._sweep_is_due = self._sweep_may_step = self._reconcile_is_due = False
        self._paused: dict[Stream | Destination, float] = {}
        self._failures: Counter[Destination] = Counter()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, *, once: bool) -> None:
        """Polls at every interval until stopped, or once. A long window is read and loaded without a pause."""
        with self._workers:
            while not self._stop.is_set():
                if time.monotonic() >= self._next_poll:
                    self._call_to_poll(once=once)
                self._begin_passes()
                self._begin_reconciling()
                has_moved = [self._collect(), *map(self._advance, list(self._passes))]
                if any(has_moved):
                    self._on_progress(self._report)
                elif not self._workers.are_idle:
                    self._workers.wait(timeout_seconds=0.5)
                elif once and not self._passes and not self._sweep_is_due and not self._reconcile_is_due:
                    return
                else:
                    self._on_progress(self._report)
                    self._stop.wait(max(0, self._next_poll - time.monotonic()))
        self._collect()

    def _advance(self, entry: Pass) -> bool:
        """Reads the next step of a pass, or hands the one that was read to its destinations; False if it has to wait.

        While a step is being loaded, the next one is read.
        """
        if entry.step is None:
            return self._read_step(entry)
        busy = {destination for destination in entry.loads if self._workers.is_busy(destination)}
        if busy and (busy == entry.loads.keys() or time.monotonic() < entry.read_at + PATIENCE_SECONDS):
            return False
        for destination in busy:
            log.warning("destination.slow", destination=destination.name, hint="the others go on without it")
            del entry.loads[destination]
        for destination, load in entry.loads.items():
            self._submit(destination, (entry, entry.step), partial(load, entry.step))
        entry.step = None
        return True

    def _read_step(self, entry: Pass) -> bool:
        if entry.is_sweep and not self._sweep_may_step:
            return False
        try:
            entry.step = next(entry.steps, None) if entry.loads else None
        except StopRequestedError:
            return False
        except AuditLogsError as error:
            self._abandon(error)
            return False
        entry.read_at = time.monotonic()
        if entry.step is None:
            self._passes.remove(entry)
            self._note_failures(entry.reading)
            return True
        self._report.add_read(entry.step)
        self._sweep_may_step = self._sweep_may_step and not (entry.is_sweep and self._next_poll < math.inf)
        return True

    def _collect(self) -> bool:
        """Takes note of the openings and loads that have ended."""
        ended = list(self._workers.collect())
        for owner, subject, future in ended:
            try:
                result = future.result()
            except StopRequestedError:
                continue
            except AuditLogsError as error:
                self._fail(owner, error)
                continue
            if isinstance(owner, Reconciler):
                self._report.add_gaps(result)
            elif subject is not None:
                self._note_load(owner, *subject, *result)
        return bool(ended)

    def _submit(self, destination: Destination, subject: tuple[Pass, Step] | None, task: Callable[[], Any]) -> None:
        def run() -> tuple[Any, float]:
            begun = time.monotonic()
            try:
                return task(), time.monotonic() - begun
            except AuditLogsError:
                destination.close()
                raise

        self._workers.submit(destination, subject, run)

    # --- what is due ------------------------------------------------------------------------------------------------

    def _call_to_poll(self, *, once: bool) -> None:
        """Calls the destinations that have no poll in hand, and opens those that are not open."""
        polling = {destination for entry in self._passes if not entry.is_sweep for destination in entry.loads}
        if not self._due:
            self._called_at = time.monotonic()
        for destination in self._destinations:
            if destination in polling or self._workers.is_busy(destination) or self._is_paused(destination):
                continue
            self._due.add(destination)
            if not destination.is_open:
                self._submit(destination, None, destination.open)
        self._next_poll = math.inf if once else time.monotonic() + self._settings.poll_interval_seconds
        self._sweep_is_due = self._sweep_may_step = bool(self._settings.sweep_interval)
        self._reconcile_is_due = self._reconciler.is_due

    def _begin_passes(self) -> None:
        """Begins the polls of those called that are ready, together unless one lets the others wait; then a sweep."""
        ready = {d for d in self._due if not self._workers.is_busy(d)}
        if ready and (ready == self._due or time.monotonic() > self._called_at + PATIENCE_SECONDS):
            self._due -= ready
            now = self._clock()
            self._begin({s: self._poll_windows(ready, s, now) for s in self._streams}, now, is_sweep=False)
        elif self._sweep_is_due and not self._due and not self._passes and self._workers.are_idle:
            self._sweep_is_due = False
            now = self._clock()
            self._begin({s: self._sweep_windows(s, now) for s in self._streams}, now, is_sweep=True)

    def _begin_reconciling(self) -> None:
        """Compares hours that are due, when nothing else is: one stretch a poll."""
        is_idle = not (self._due or self._sweep_is_due or self._passes) and self._workers.are_idle
        if self._reconcile_is_due and is_idle:
            self._reconcile_is_due = False
            begins = dict(self._held_begins())
            if begins:
                self._workers.submit(self._reconciler, None, partial(self._reconciler.reconcile, begins))

    def _held_begins(self) -> Iterator[tuple[Stream, datetime]]:
        """The streams that every destination holds, and from when on."""
        for stream in self._streams:
            positions = [d.position(stream) for d in self._destinations if d.is_open]
            if len(positions) == len(self._destinations) and None not in positions:
                yield stream, max(position.begin for position in positions if position)

    def _begin(self, windows: Mapping[Stream, Mapping[Destination, Window]], now: datetime, *, is_sweep: bool) -> None:
        """One pass for each group of destinations that share a reading."""
        shared: dict[tuple[Destination, ...], dict[Stream, Window]] = {}
        for stream, by_destination in windows.items():
            for group in _sharing(by_destination):
                parts = [by_destination[d] for d in group]
                window = Window(min(w.since for w in parts), max(w.before for w in parts))
                shared.setdefault(group, {})[stream] = window
        for group, its_windows in shared.items():
            reading = Reading(self._fetch_pages, its_windows, direction=self._settings.direction, limits=self._limits)
            loads: dict[Destination, Load] = {d: d.load_late if is_sweep else d.load for d in group}
            self._passes.append(Pass(reading, reading.steps(), loads, now, is_sweep))

    def _poll_windows(self, ready: Collection[Destination], stream: Stream, now: datetime) -> dict[Destination, Window]:
        return {d: self._poll_window(d, stream, now) for d in self._destinations if d in ready and d.is_open}

    def _poll_window(self, destination: Destination, stream: Stream, now: datetime) -> Window:
        """From the cursor minus the lag, or from the first start's begin for a stream never seen, until now."""
        position, lag = destination.position(stream), self._settings.safety_lag
        if position is None:
            return Window(self._first_begin, now)
        self._sweeps.note(destination.name, stream, position.cursor)
        # A cursor of a clock that was ahead must not close the window: the lag before now is always read.
        return Window(min(max(position.cursor - lag, position.begin), now - lag), now)

    def _sweep_windows(self, stream: Stream, now: datetime) -> dict[Destination, Window]:
        windows = {}
        for destination in self._destinations:
            position = destination.position(stream) if destination.is_open else None
            if position is not None:
                polled_since = self._poll_window(destination, stream, now).since
                window = self._sweeps.window(destination.name, stream, polled_since, now)
                if window and position.begin < window.before:
                    windows[destination] = Window(max(window.since, position.begin), window.before)
        return windows

    @property
    def _streams(self) -> list[Stream]:
        return [stream for stream in self._settings.streams if not self._is_paused(stream)]

    def _is_paused(self, subject: Stream | Destination) -> bool:
        return self._paused.get(subject, 0.0) > time.monotonic()

    # --- what went wrong --------------------------------------------------------------------------------------------

    def _fail(self, destination: Destination | Reconciler, error: AuditLogsError) -> None:
        """Leaves a destination alone for a while, each time longer; then it is opened again."""
        if isinstance(destination, Reconciler):
            destination.pause()
            log.warning("reconcile.failed", error=error, hint="it is tried again later")
            return
        self._due.discard(destination)
        for entry in self._passes:
            entry.loads.pop(destination, None)
        self._failures[destination] += 1
        wait = min(self._settings.backoff_max_seconds, 2.0 ** min(self._failures[destination], 10))
        self._paused[destination] = time.monotonic() + wait
        self._report.add_failure(destination.name, error)
        log.error("destination.failed", destination=destination.name, error=error, retry_in_seconds=f"{wait:.0f}")

    def _abandon(self, error: AuditLogsError) -> None:
        """Gives up everything that is being read (the clock is off, say)."""
        self._passes.clear()
        self._sweep_is_due = self._reconcile_is_due = False
        self._report.stopped_by = error
        log.error("poll.abandoned", error=error)

    def _note_failures(self, reading: Reading) -> None:
        for stream, error in reading.failures.items():
            self._report.accounts_failed[stream] = error
            wait = 0.0
            if isinstance(error, RateLimitedError):
                wait = (error.until - self._clock()).total_seconds()
            elif isinstance(error, RefusedError):
                wait = REFUSED_PAUSE_SECONDS
            self._paused[stream] = time.monotonic() + wait
            retry = f"in {wait:.0f} s" if wait > 0 else "next poll"
            log.error("account.failed", account=stream.account_id, version=stream.api_version, error=error, retry=retry)

    # --- what went well ---------------------------------------------------------------------------------------------

    def _note_load(
        self, destination: Destination, entry: Pass, step: Step, new: Mapping[Stream, Batch], seconds: float
    ) -> None:
        self._failures[destination] = 0
        positions = {stream: position for stream in step.parts if (position := destination.position(stream))}
        for stream in positions.keys() & step.finished:
            position, since = positions[stream], step.parts[stream].window.since
            is_first = since <= position.begin
            if entry.is_sweep or is_first or self._sweeps.is_covered_by(destination.name, stream, since, entry.begun):
                self._sweeps.mark(destination.name, stream, entry.begun, position.cursor)
        load = LoadedStep(destination.name, step, new, positions, entry.is_sweep, entry.begun, self._clock(), seconds)
        self._report.add_load(load)


def _sharing(windows: Mapping[Destination, Window]) -> list[tuple[Destination, ...]]:
    """The destinations in groups whose windows start close together."""
    starts = [window.since for window in windows.values()]
    if not starts or max(starts) - min(starts) <= SHARED_SPREAD:
        return [tuple(windows)] if starts else []
    return [(destination,) for destination in windows]
