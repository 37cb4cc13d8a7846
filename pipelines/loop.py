"""The loop: read what is due, load it into each destination, wait. Everything it remembers may be lost at any time."""

import faulthandler
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sources.cloudflare_audit_logs import Batch, Stream
from sources.cloudflare_audit_logs.errors import AuditLogsError, RateLimitedError, RefusedError, TemporaryError
from sources.cloudflare_audit_logs.streams import Window

from .destination import Destination
from .logs import log
from .reading import DEFAULT_LIMITS, FetchPages, Reading, Step, StepLimits
from .settings import Settings

REFUSED_PAUSE = timedelta(minutes=5)
"""How long an account is left alone that the API refuses: only an operator can mend it."""

SHARED_SPREAD = timedelta(hours=1)
"""Destinations whose windows start this close together share a reading; one that is further behind reads for itself."""

LOAD_DEADLINE_SECONDS = 900
"""A load that takes longer hangs (an error that dlt cannot see): the process ends, and the next one goes on."""


class StopRequestedError(Exception):
    """Someone asked us to stop while we waited for the API."""


@dataclass
class Report:
    """What happened: events read, events that were new by destination, and what failed last."""

    read: int = 0
    new: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    newest: datetime | None = None
    accounts_failed: dict[Stream, AuditLogsError] = field(default_factory=dict)
    accounts_read: set[Stream] = field(default_factory=set)
    destinations_failed: dict[str, AuditLogsError] = field(default_factory=dict)
    stopped_by: AuditLogsError | None = None


class Loop:
    """Polls all streams for all destinations. `stop` ends it after the step in hand."""

    def __init__(
        self,
        settings: Settings,
        fetch_pages: FetchPages,
        destinations: Sequence[Destination],
        *,
        clock: Callable[[], datetime],
        stop: threading.Event,
        on_step: Callable[[Report], None] = lambda _: None,
        limits: StepLimits = DEFAULT_LIMITS,
    ) -> None:
        self.report = Report()
        self._settings, self._fetch_pages, self._destinations = settings, fetch_pages, destinations
        self._clock, self._stop, self._on_step, self._limits = clock, stop, on_step, limits
        self._first_begin = settings.first_begin(clock())
        self._readings: list[tuple[Reading, Iterator[Step]]] = []
        self._paused_streams: dict[Stream, datetime] = {}
        self._paused_destinations: dict[Destination, datetime] = {}
        self._failures: Counter[Destination] = Counter()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, *, once: bool) -> None:
        """Polls at every interval until stopped, or once. A long window is read and loaded without a pause."""
        next_poll = time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() >= next_poll:
                self._begin_readings()
                next_poll = time.monotonic() + self._settings.poll_interval_seconds
            if self._readings:
                self._advance()
            elif once:
                return
            else:
                self._stop.wait(next_poll - time.monotonic())
            if once:
                next_poll = float("inf")

    def _advance(self) -> None:
        """Reads one step of each reading, and loads it into the destinations that share the reading."""
        for entry in list(self._readings):
            reading, steps = entry
            try:
                step = next(steps, None) if reading.destinations else None
            except StopRequestedError:
                return
            except AuditLogsError as error:
                self._abandon(error)
                return
            if step is None:
                self._readings.remove(entry)
                self._note_failures(reading)
                continue
            for destination in reading.destinations:
                self._load(destination, step)
            self._note_step(step)

    def _load(self, destination: Destination, step: Step) -> None:
        try:
            with _deadline(LOAD_DEADLINE_SECONDS):
                new = destination.load(step.batches[destination])
        except AuditLogsError as error:
            self._fail(destination, error)
            return
        for stream in step.finished:
            destination.mark_complete(stream, step.batches[destination][stream].since)
        self._failures[destination] = 0
        self.report.destinations_failed.pop(destination.name, None)
        self._note_load(destination, new)

    # --- what is due ------------------------------------------------------------------------------------------------

    def _begin_readings(self) -> None:
        """Starts a reading of the streams for every destination that is not in one, `before` being now."""
        before = self._clock()
        busy = {destination for reading, _ in self._readings for destination in reading.destinations}
        due = [d for d in self._destinations if d not in busy and self._paused_destinations.get(d, before) <= before]
        idle = [d for d in due if self._is_ready(d)]
        streams = [s for s in self._settings.streams if self._paused_streams.get(s, before) <= before]
        for sharing, windows in self._plan(idle, streams, before).items():
            since = {d: {s: self._since(d, s, before) for s in windows} for d in sharing}
            reading = Reading(
                self._fetch_pages, windows, since, direction=self._settings.direction, limits=self._limits
            )
            self._readings.append((reading, reading.steps()))

    def _plan(
        self, destinations: Sequence[Destination], streams: Sequence[Stream], before: datetime
    ) -> Mapping[tuple[Destination, ...], dict[Stream, Window]]:
        """The windows by the destinations that share them."""
        plan: dict[tuple[Destination, ...], dict[Stream, Window]] = {}
        for stream in streams if destinations else ():
            starts = {d: self._since(d, stream, before) for d in destinations}
            is_shared = max(starts.values()) - min(starts.values()) <= SHARED_SPREAD
            for sharing in [tuple(starts)] if is_shared else [(d,) for d in starts]:
                plan.setdefault(sharing, {})[stream] = Window(min(starts[d] for d in sharing), before)
        return plan

    def _since(self, destination: Destination, stream: Stream, before: datetime) -> datetime:
        """Where the window starts: the cursor minus the lag, or the first start's begin for a stream never seen."""
        since = destination.since(stream)
        if since is None:
            return self._first_begin
        # A cursor of a clock that was ahead must not close the window: the lag before now is always read.
        return min(since, before - timedelta(seconds=self._settings.safety_lag_seconds))

    def _is_ready(self, destination: Destination) -> bool:
        if destination.is_open:
            return True
        try:
            destination.open()
        except AuditLogsError as error:
            self._fail(destination, error)
        return destination.is_open

    # --- what went wrong --------------------------------------------------------------------------------------------

    def _fail(self, destination: Destination, error: AuditLogsError) -> None:
        """Lets go of a destination; it is opened again later, each time after a longer wait."""
        destination.close()
        self._failures[destination] += 1
        wait = min(self._settings.backoff_max_seconds, 2.0 ** min(self._failures[destination], 10))
        self._paused_destinations[destination] = self._clock() + timedelta(seconds=wait)
        self.report.destinations_failed[destination.name] = error
        log.error("destination.failed", destination=destination.name, error=error, retry_in_seconds=f"{wait:.0f}")

    def _abandon(self, error: AuditLogsError) -> None:
        """Gives up everything that is being read (the clock is off, say). Nothing of it was loaded."""
        self._readings.clear()
        self.report.stopped_by = error
        log.error("poll.abandoned", error=error)

    def _note_failures(self, reading: Reading) -> None:
        for destination, error in reading.broken.items():
            self._fail(destination, error)
        for stream, error in reading.failures.items():
            self.report.accounts_failed[stream] = error
            if isinstance(error, RateLimitedError):
                self._paused_streams[stream] = error.until
            elif isinstance(error, RefusedError):
                self._paused_streams[stream] = self._clock() + REFUSED_PAUSE
            paused = self._paused_streams.get(stream)
            retry = f"{paused:%H:%M:%S}" if paused and paused > self._clock() else "next poll"
            log.error("account.failed", account=stream.account_id, version=stream.api_version, error=error, retry=retry)

    def _note_step(self, step: Step) -> None:
        self.report.read += step.read
        self.report.accounts_read.update(step.finished)
        for stream in step.finished:
            self.report.accounts_failed.pop(stream, None)
            self._paused_streams.pop(stream, None)
        self._on_step(self.report)

    def _note_load(self, destination: Destination, new: Mapping[Stream, Batch]) -> None:
        if not new:
            return
        events = sum(table.num_rows for batch in new.values() for table in batch.events)
        quarantined = sum(table.num_rows for batch in new.values() for table in batch.quarantined)
        newest = max(batch.cursor for batch in new.values())
        self.report.loads[destination.name] += 1
        self.report.new[destination.name] += events
        self.report.quarantined[destination.name] += quarantined
        self.report.newest = max(self.report.newest or newest, newest)
        accounts = len({stream.account_id for stream in new})
        log.info(
            "load.finished", destination=destination.name, new=events, accounts=accounts, newest=newest.isoformat()
        )
        if quarantined:
            hint = "no readable time or no event: see audit_logs_quarantine"
            log.warning("load.quarantined", destination=destination.name, events=quarantined, hint=hint)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Ends the process with a traceback of every thread if the block takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def exit_code(report: Report) -> int:
    """0 done, 1 an account failed, 75 try again later."""
    hard = [error for error in report.accounts_failed.values() if not isinstance(error, TemporaryError)]
    others_loaded = bool(report.accounts_read - report.accounts_failed.keys())
    if hard or (report.accounts_failed and others_loaded):
        return 1
    later = [*report.accounts_failed.values(), *report.destinations_failed.values(), report.stopped_by]
    failed = [error for error in later if error is not None]
    if not failed:
        return 0
    return 75 if all(isinstance(error, TemporaryError) for error in failed) else 1
