"""The loop: read what is due, load it into each destination, wait. Everything it remembers may be lost at any time.

Accounts are read by threads, several side by side; each destination opens and loads in a thread of its own. So neither
an account nor a destination that is down or slow holds back another. What is to be done next is decided here, in one.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from datetime import datetime
from functools import partial
from typing import Any

from pipelines.fetch.api import FetchUntil, StopRequestedError
from pipelines.fetch.reading import DEFAULT_LIMITS, Step, StepLimits
from pipelines.host.aside import aside
from pipelines.host.logs import log
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool
from pipelines.proof.reconciler import Reconciler
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs import Batch, Stream
from sources.cloudflare_audit_logs.budget import Budgets
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, RateLimitedError
from sources.cloudflare_audit_logs.streams import Window

from .account_failures import AccountFailures
from .cycle import Load, Pass
from .measurements import LoadedStep
from .pauses import Pauses
from .plan import Group, PassPlan
from .readers import DOUBTFUL, Readers
from .report import Report
from .workers import Workers

PATIENCE_SECONDS = 10
"""How long one destination waits for another, to open or to load, before it goes on without."""

SLOWEST_EVENTS_PER_SECOND = 2_000
"""A load gets that much longer: 11,000 were loaded in a second beside seven other jobs on two cores."""

TASK_DEADLINE_SECONDS = 900
"""A load that takes longer hangs (an error that dlt cannot see): the process ends, and the next one goes on."""

_SOON_SECONDS = 0.02


class Loop:
    """Polls all streams for all destinations. `stop` ends it after the loads in hand."""

    def __init__(
        self,
        settings: Settings,
        fetch_pages: FetchUntil,
        destinations: Sequence[Loader],
        report: Report,
        *,
        spool: Spool,
        budgets: Budgets,
        clock: Callable[[], datetime],
        stop: threading.Event,
        on_progress: Callable[[Report], None] = lambda _: None,
        limits: StepLimits = DEFAULT_LIMITS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Writes into the report, and shows it whenever something was finished, or nothing is left to do."""
        self._report, self._spool = report, spool
        self._settings, self._fetch_pages, self._destinations = settings, fetch_pages, destinations
        self._clock, self._stop, self._on_progress, self._limits = clock, stop, on_progress, limits
        self._monotonic = monotonic
        self._plan = PassPlan(settings, destinations, clock())
        self._pauses = Pauses(settings, monotonic)
        self._reconciler = Reconciler(settings, clock, report.traffic, budgets, monotonic)
        self._workers: Workers[Loader, tuple[Pass, Step] | None] = Workers(TASK_DEADLINE_SECONDS, monotonic)
        self._readers: Readers[tuple[Pass, Stream]] = Readers(monotonic)
        self._passes: list[Pass] = []
        self._called_at = self._next_poll = monotonic()
        self._due: set[Loader] = set()
        """Called to a poll that they have not begun yet."""
        self._sweep_is_due = self._sweep_may_step = self._reconcile_is_due = False
        self._unswept: set[Stream] = set()
        """Called to a sweep that they have not begun yet."""
        self._account_failures = AccountFailures(settings.streams, monotonic)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, *, once: bool) -> None:
        """Polls at every interval until stopped, or once. A long window is read and loaded without a pause."""
        with self._workers, self._readers:
            try:
                self._run(once=once)
            finally:
                self._end_reading(self._passes)
                self._reconciler.end()
        self._collect()
        self._tell_account_failures(at_once=True, is_last=True)

    def _run(self, *, once: bool) -> None:
        while not self._stop.is_set():
            if self._monotonic() >= self._next_poll:
                self._call_to_poll(once=once)
            self._begin_passes()
            self._begin_reconciling()
            has_moved = [self._collect(), self._collect_parts(), *map(self._hand_over, self._by_age())]
            self._begin_reading()
            self._tell_account_failures(at_once=not self._readers.futures)
            if any(has_moved):
                self._show_progress()
            elif in_hand := [*self._workers.futures, *self._readers.futures, *self._reconciler.futures]:
                wait(in_hand, 0.5, FIRST_COMPLETED)
            elif once and not self._passes and not self._sweep_is_due and not self._reconcile_is_due:
                return
            else:
                self._show_progress()
                self._stop.wait(_SOON_SECONDS if once else max(0, self._next_poll - self._monotonic()))

    def _begin_reading(self) -> None:
        """Gives the readers that are free something to read, of each pass in turn."""
        while self._readers.have_room and (found := self._next_reading()):
            self._readers.submit(*found)

    def _next_reading(self) -> tuple[str, tuple[Pass, Stream], Callable[[], Any]] | None:
        for entry in self._passes:
            if entry.wants_to_read and (self._sweep_may_step or not entry.is_sweep):
                found = entry.next_reading(self._readers.have_room_for)
                if found is not None:
                    queue, stream, reading = found
                    self._passes.remove(entry)
                    self._passes.append(entry)
                    return queue, (entry, stream), reading.read
        return None

    def _collect_parts(self) -> bool:
        """Takes in what was read."""
        ended = list(self._readers.collect())
        for read in ended:
            entry, stream = read.subject
            if entry not in self._passes:
                continue
            try:
                entry.add(stream, read.future.result())
                self._account_failures.note_readable(stream)
                self._report.add_readable(stream)
            except StopRequestedError:
                continue
            except AccountError as error:
                entry.drop(stream)
                self._note_failure(stream, error, read.seconds)
            except AuditLogsError as error:
                self._abandon(error)
        return bool(ended)

    def _by_age(self) -> list[Pass]:
        """The passes that have something to be loaded, who waits longest first."""
        return sorted((entry for entry in self._passes if entry.is_due), key=lambda entry: entry.due_since or 0.0)

    def _hand_over(self, entry: Pass) -> bool:
        """Hands what is due to the destinations; False if it has to wait. Meanwhile, the next step is read."""
        busy = {destination for destination in entry.loads if self._workers.is_busy(destination)}
        patience_seconds = PATIENCE_SECONDS + entry.due_events / SLOWEST_EVENTS_PER_SECOND
        is_patient = self._monotonic() < (entry.due_since or 0.0) + patience_seconds
        if busy and (busy == entry.loads.keys() or is_patient):
            return False
        for destination in busy:
            log.warning("destination.slow", destination=destination.name, hint="the others go on without it")
            del entry.loads[destination]
            if self._next_poll == math.inf:  # the only poll: it reads what it lacks by itself
                self._due.add(destination)
        step = entry.take_step()
        self._report.add_read(step)
        for destination, load in entry.loads.items():
            self._submit(destination, (entry, step), partial(load, step))
        if step.is_last:
            self._passes.remove(entry)
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
            if subject is not None:
                self._note_load(owner, *subject, *result)
        gaps = self._reconciler.collect()
        self._report.add_gaps(gaps or [])
        return bool(ended) or gaps is not None

    def _submit(self, destination: Loader, subject: tuple[Pass, Step] | None, task: Callable[[], Any]) -> None:
        def run() -> tuple[Any, float]:
            begun = self._monotonic()
            try:
                return task(), self._monotonic() - begun
            except AuditLogsError:
                destination.close()
                raise

        self._workers.submit(destination, subject, run)

    # --- what is due ------------------------------------------------------------------------------------------------

    def _call_to_poll(self, *, once: bool) -> None:
        """Calls the destinations that are there to a poll, and opens those that are not open."""
        if not self._due:
            self._called_at = self._monotonic()
        for destination in self._destinations:
            if self._pauses.include(destination) or self._cannot_begin(destination):
                continue
            self._due.add(destination)
            if not destination.is_open and not self._workers.is_busy(destination):
                self._submit(destination, None, destination.open)
        self._next_poll = math.inf if once else self._monotonic() + self._settings.poll_interval_seconds
        self._sweep_is_due = self._sweep_may_step = bool(self._settings.sweep_interval)
        self._unswept = set(self._settings.streams)
        self._reconcile_is_due = self._reconciler.is_due

    def _cannot_begin(self, destination: Loader) -> bool:
        """True if it is being opened, or loads what is the last of a pass, or has done so for long; it may hang.

        In the middle of a long pass it can begin another one: for the accounts that are not in that.
        """
        if not self._workers.is_busy(destination):
            return False
        subject = self._workers.subject_of(destination)
        is_in_pass = subject is not None and subject[0] in self._passes
        return not is_in_pass or self._workers.busy_seconds(destination) > PATIENCE_SECONDS

    def _begin_passes(self) -> None:
        """Begins the polls of those called that are open, together unless one lets the others wait; then a sweep."""
        ready = {d for d in self._due if not self._lets_wait(d)}
        if ready and (ready == self._due or self._monotonic() > self._called_at + PATIENCE_SECONDS):
            self._due -= ready
            now = self._clock()
            self._begin(self._plan.polls(self._streams, ready, self._in_poll, now), now, is_sweep=False)
        elif self._sweep_is_due and self._is_quiet and not any(entry.is_sweep for entry in self._passes):
            now, in_poll = self._clock(), {stream for _, stream in self._in_poll}
            streams = [stream for stream in self._streams if stream in self._unswept - in_poll]
            self._unswept &= in_poll
            # The next poll calls to the next sweep; without one, those that are still being polled have theirs later.
            self._sweep_is_due = self._next_poll == math.inf and bool(self._unswept)
            self._begin(self._plan.sweeps(streams, now), now, is_sweep=True)

    def _lets_wait(self, destination: Loader) -> bool:
        """True if it is being opened, or still loads what the only poll brought it."""
        if not self._workers.is_busy(destination):
            return False
        return self._workers.subject_of(destination) is None or self._next_poll == math.inf

    @property
    def _in_poll(self) -> set[tuple[Loader, Stream]]:
        """What is being polled: an account that is slow goes on in its pass, and the others begin a new one."""
        polls = [entry for entry in self._passes if not entry.is_sweep]
        return {(destination, stream) for entry in polls for destination in entry.loads for stream in entry.streams}

    @property
    def _is_quiet(self) -> bool:
        """True if nothing is left to do but to wait for accounts that are slow."""
        polls = [entry for entry in self._passes if not entry.is_sweep]
        is_idle = not self._due and self._workers.are_idle and not self._reconciler.futures
        return is_idle and all(self._monotonic() > entry.created + PATIENCE_SECONDS for entry in polls)

    def _begin_reconciling(self) -> None:
        """Compares hours that are due, when nothing else is."""
        if self._reconcile_is_due and self._is_quiet and not self._sweep_is_due:
            self._reconcile_is_due = False
            refused = self._report.refused_versions
            begins = dict(self._plan.held_begins(s for s in self._streams if s not in refused))
            if begins:
                self._reconciler.begin(begins)

    def _begin(self, windows: Mapping[Group, Mapping[Stream, Window]], now: datetime, *, is_sweep: bool) -> None:
        """One pass for each group of destinations that share a reading."""
        for group, its_windows in windows.items():
            loads: dict[Loader, Load] = {d: d.load_late if is_sweep else d.load for d in group}
            entry = Pass(
                its_windows,
                self._fetch_pages,
                self._spool,
                self._settings,
                loads,
                queue_of=self._queue_of,
                limits=self._limits,
                begun=now,
                is_sweep=is_sweep,
                monotonic=self._monotonic,
            )
            self._passes.append(entry)

    def _token_of(self, stream: Stream) -> str:
        return self._settings.account(stream.account_id).token_name

    def _queue_of(self, stream: Stream) -> str:
        """A token's streams wait for each other; so do those that failed last, whatever their token."""
        return DOUBTFUL if stream in self._report.accounts_failed else self._token_of(stream)

    @property
    def _streams(self) -> list[Stream]:
        """Those that are not left alone."""
        streams, pauses = self._settings.streams, self._pauses
        return [s for s in streams if not pauses.include(s) and not pauses.include(self._token_of(s))]

    # --- what went wrong --------------------------------------------------------------------------------------------

    def _fail(self, destination: Loader, error: AuditLogsError) -> None:
        """Leaves a destination alone for a while, each time longer; then it is opened again."""
        self._due.discard(destination)
        for entry in self._passes:
            entry.loads.pop(destination, None)
        self._end_reading([entry for entry in self._passes if not entry.loads])
        seconds = self._pauses.after_failure(destination)
        self._report.add_failure(destination.name, error)
        log.error("destination.failed", destination=destination.name, error=error, retry_in_seconds=f"{seconds:.0f}")

    def _abandon(self, error: AuditLogsError) -> None:
        """Gives up everything that is being read (the clock is off, say)."""
        self._end_reading(self._passes)
        self._sweep_is_due = self._reconcile_is_due = False
        self._report.stopped_by = error
        log.error("poll.abandoned", error=error)

    def _end_reading(self, unwanted: Sequence[Pass]) -> None:
        """Ends what nobody waits for: no further request is sent for it."""
        for entry in list(unwanted):
            entry.stop.set()
            self._passes.remove(entry)

    def _note_failure(self, stream: Stream, error: AccountError, took_seconds: float) -> None:
        """Leaves an account alone for a while; and with it all of a token that is shut out."""
        self._report.accounts_failed[stream] = error
        seconds = self._pauses.seconds_after(error, took_seconds, self._clock())
        self._pauses.pause(stream, seconds)
        retry = f"in {seconds:.0f} s" if seconds > self._settings.poll_interval_seconds else "next poll"
        self._account_failures.note(stream, error, retry)
        if isinstance(error, RateLimitedError):
            self._shut_out(self._token_of(stream), error, seconds)

    def _tell_account_failures(self, *, at_once: bool, is_last: bool = False) -> None:
        report = self._report
        with aside("account_failures"):
            self._account_failures.tell(report.accounts_failed, report.readable, at_once=at_once, is_last=is_last)

    def _shut_out(self, token_name: str, error: RateLimitedError, seconds: float) -> None:
        """All accounts of a token that is rate limited wait: each would only be told so, too."""
        self._pauses.pause(token_name, seconds)
        passes = list(self._passes)
        others = [s for entry in passes for s in entry.give_up(lambda s: self._token_of(s) == token_name)]
        self._report.accounts_failed.update(dict.fromkeys(others, error))
        if others:
            log.error("token.rate_limited", token=token_name, accounts_waiting=len(others), retry=f"in {seconds:.0f} s")

    # --- what went well ---------------------------------------------------------------------------------------------

    def _note_load(
        self, destination: Loader, entry: Pass, step: Step, new: Mapping[Stream, Batch], seconds: float
    ) -> None:
        self._pauses.after_success(destination)
        self._plan.note_loaded(destination, step, entry.begun, is_sweep=entry.is_sweep)
        positions = {stream: position for stream in step.parts if (position := destination.position(stream))}
        load = LoadedStep(destination.name, step, new, positions, entry.is_sweep, entry.begun, self._clock(), seconds)
        self._report.add_load(load)

    def _show_progress(self) -> None:
        with aside("progress"):
            self._on_progress(self._report)
