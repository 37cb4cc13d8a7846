"""The loop: what is due is read, handed over to the destinations, loaded. All that it remembers may be lost.

Accounts are read by threads, several side by side; each destination opens and loads in a thread of its own. So neither
an account nor a destination that is down or slow holds back another. This one thread decides, as `schedule` says.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from dataclasses import dataclass

from pipelines.fetch.api import Clock, StopRequestedError
from pipelines.host.aside import aside
from pipelines.host.logs import log
from pipelines.load.loader import Loader
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, RateLimitedError
from sources.cloudflare_audit_logs.streams import Stream

from .background import Background, BackgroundTask
from .cycle import Cycle
from .cycles import Cycles
from .failures import Failures
from .loaders import Loaders
from .plan import CyclePlan
from .report import Report
from .schedule import Activity, Schedule


@dataclass
class Loop:
    """Polls all streams for all destinations. `stop` ends it after the loads that are under way."""

    destinations: Sequence[Loader]
    schedule: Schedule[Loader, Stream, BackgroundTask]
    plan: CyclePlan
    cycles: Cycles
    loaders: Loaders
    background: Background
    failures: Failures
    report: Report
    on_progress: Callable[[], None]
    clock: Clock
    stop: threading.Event

    def run(self) -> None:
        """Goes on until it is stopped, or nothing is due any more. A long window is read and loaded without a pause."""
        with closing(self.loaders), closing(self.background), closing(self.cycles):
            while not self.stop.is_set() and self._turn():
                pass
        self._collect_loads()
        self.background.collect()
        self.failures.log_accounts(at_once=True, is_last=True)

    def _turn(self) -> bool:
        """Does what can be done now, or else waits for more; False if nothing is due any more."""
        self._begin_what_is_due()
        has_moved = [self._collect_loads(), self.background.collect(), self._collect_parts()]
        has_moved += map(self._hand_over, self.cycles.by_age)
        self.cycles.read_on(may_sweep=self.schedule.may_sweep)
        self.failures.log_accounts(at_once=not self.cycles.futures)
        under_way = [*self.loaders.futures, *self.cycles.futures, *self.background.futures]
        if not any(has_moved) and under_way:
            wait(under_way, 0.5, FIRST_COMPLETED)
            return True
        if not any(has_moved) and self.schedule.is_done and not self.cycles.all:
            return False
        with aside("progress"):
            self.on_progress()
        if not any(has_moved):
            self.stop.wait(self.schedule.wait_seconds)
        return True

    def _begin_what_is_due(self) -> None:
        """Opens destinations that are closed; begins polls, then a sweep, then work in the background."""
        now, schedule, busy = self.clock(), self.schedule, self._activity.busy
        if schedule.poll_is_due:
            able = [d for d in self.destinations if not self.failures.is_paused(d.name)]
            for destination in schedule.call(able, busy, self.background.due):
                if not destination.is_open and destination not in busy:
                    self.loaders.open(destination)
        if ready := schedule.take_ready(self._activity):
            polls = self.plan.polls(self.failures.streams, ready, self.cycles.in_poll, now)
            self.cycles.begin(polls, now, is_sweep=False)
        elif schedule.sweep_begins(self._activity):
            unswept = schedule.take_unswept({stream for _, stream in self.cycles.in_poll})
            sweeps = self.plan.sweeps([stream for stream in self.failures.streams if stream in unswept], now)
            self.cycles.begin(sweeps, now, is_sweep=True)
        if task := schedule.take_background(self._activity):
            refused = self.failures.accounts.refused_versions
            if begins := dict(self.plan.held_begins(s for s in self.failures.streams if s not in refused)):
                self.background.begin(task, begins)

    @property
    def _activity(self) -> Activity[Loader]:
        cycles, polls = self.cycles.all, [cycle.created for cycle in self.cycles.polls]
        return Activity(self.loaders.busy(cycles), polls, len(polls) < len(cycles), bool(self.background.futures))

    def _collect_parts(self) -> bool:
        """Takes note of what was read, and of what was not; False if there is nothing."""
        ended = self.cycles.collect()
        for stream, seconds, error in ended:
            if error is None:
                self.failures.accounts.note_readable(stream)
            elif isinstance(error, AccountError):
                others = self.cycles.give_up(stream) if isinstance(error, RateLimitedError) else []
                self.failures.note_account(stream, error, seconds, self.clock(), others)
            elif self.cycles.all:
                self.cycles.end(self.cycles.all)
                self.schedule.abandon()
                self.failures.note_api(error)
        return bool(ended)

    def _hand_over(self, cycle: Cycle) -> bool:
        """Hands what is due to the destinations; False if it has to wait. Meanwhile, the next step is read."""
        busy = [d for d in cycle.destinations if d in self._activity.busy]
        if busy and (busy == cycle.destinations or self.schedule.is_patient(cycle.due_since, cycle.step.events)):
            return False
        for destination in busy:
            log.warning("destination.slow", destination=destination.name, hint="the others go on without it")
            cycle.destinations.remove(destination)
            self.schedule.recall(destination)
        step = self.cycles.take_step(cycle)
        self.failures.note_read(step.finished)
        self.schedule.note_handed_over(is_sweep=cycle.is_sweep)
        with aside("measurements"):
            self.report.add_read(step)
        for destination in cycle.destinations:
            self.loaders.load(destination, step, cycle)
        return True

    def _collect_loads(self) -> bool:
        """Takes note of the openings and loads that have ended; False if there is none."""
        ended = self.loaders.collect()
        for destination, future in ended:
            try:
                loaded = future.result()
            except StopRequestedError:
                continue
            except AuditLogsError as error:
                self.schedule.dismiss(destination)
                self.cycles.leave_out(destination)
                self.failures.note_destination(destination.name, error)
            else:
                if loaded:
                    self.failures.note_loaded(destination.name)
                    self.plan.note_loaded(loaded)
                    with aside("measurements"):
                        self.report.add_load(loaded)
        return bool(ended)
