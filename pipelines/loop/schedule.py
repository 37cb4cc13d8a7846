"""Decides what is due: polls, sweeps, work in the background, and pauses. Pure: the clock is passed in."""

import math
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from sources.cloudflare_audit_logs.errors import AccountError, RateLimitedError, RefusedError

PATIENCE_SECONDS = 10
"""One destination waits so long for another to open or to load. Then it goes on alone."""

SLOWEST_EVENTS_PER_SECOND = 2_000
"""A load gets so much more time: 11,000 events were loaded in a second beside seven other jobs on two cores."""

REFUSED_PAUSE_SECONDS = 300
"""An account that the API refuses is left alone so long: only an operator can mend it."""

FAILED_PAUSE_FACTOR = 2
"""An account that failed is left alone for so many times as long as that took: it may hold a third of a reader."""

SOON_SECONDS = 0.02

D = TypeVar("D", bound=Hashable)
S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


class Busy(NamedTuple):
    """The task of a destination."""

    seconds: float
    is_opening: bool = False
    is_last: bool = False
    """It is the last load of a cycle."""


class Activity(NamedTuple, Generic[D]):
    """The work under way, as far as it decides on what is due."""

    busy: Mapping[D, Busy]
    polls: Sequence[float] = ()
    """The begins of the polls that were not handed over to the end."""
    is_sweeping: bool = False
    is_in_background: bool = False


class Schedule(Generic[D, S, T]):
    """Keeps what is due for destinations (D), streams (S) and tasks of the background (T)."""

    def __init__(
        self,
        streams: Iterable[S],
        *,
        poll_seconds: float,
        has_sweeps: bool,
        is_once: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """With `is_once`, there is one poll, and all that follows it is done to the end."""
        self._streams, self._poll_seconds, self._has_sweeps = list(streams), poll_seconds, has_sweeps
        self._is_once, self._monotonic = is_once, monotonic
        self._called_at = self._next_poll = monotonic()
        self._called: set[D] = set()
        """Destinations with a poll that they have not begun yet."""
        self._sweep_is_due = False
        self.may_sweep = False
        """True if a step of a sweep may be read: one between two polls."""
        self._unswept: set[S] = set()
        """Streams with a sweep that they have not begun yet."""
        self._background: list[T] = []

    @property
    def poll_is_due(self) -> bool:
        """True if it is time for the next poll."""
        return self._monotonic() >= self._next_poll

    @property
    def wait_seconds(self) -> float:
        """The time to wait when nothing is under way: until the next poll, or a moment if this is the only one."""
        return SOON_SECONDS if self._is_once else max(0.0, self._next_poll - self._monotonic())

    @property
    def is_done(self) -> bool:
        """True if nothing is due any more, ever."""
        return self._next_poll == math.inf and not self._sweep_is_due and not self._background

    def call(self, destinations: Iterable[D], busy: Mapping[D, Busy], background: Iterable[T] = ()) -> list[D]:
        """Schedules a poll, and what follows it. Returns the destinations that can begin it, now or soon."""
        if not self._called:
            self._called_at = self._monotonic()
        # A task that takes long may hang. In the middle of a long cycle, the accounts that are not in it can be polled.
        held = {d for d, b in busy.items() if b.is_opening or b.is_last or b.seconds > PATIENCE_SECONDS}
        able = [d for d in destinations if d not in held]
        self._called.update(able)
        self._next_poll = math.inf if self._is_once else self._monotonic() + self._poll_seconds
        self._sweep_is_due = self.may_sweep = self._has_sweeps
        self._unswept = set(self._streams)
        self._background = list(background)
        return able

    def recall(self, destination: D) -> None:
        """Schedules the only poll again for a destination that was left behind: it reads by itself what it lacks."""
        if self._is_once:
            self._called.add(destination)

    def dismiss(self, destination: D) -> None:
        """Calls the poll off for a destination that failed."""
        self._called.discard(destination)

    def abandon(self) -> None:
        """Calls off the sweep and the work in the background."""
        self._sweep_is_due, self._background = False, []

    def take_ready(self, activity: Activity[D]) -> set[D]:
        """Returns the destinations that begin their poll now: together, unless some let the others wait too long."""
        waiting = {d for d in self._called & activity.busy.keys() if self._is_once or activity.busy[d].is_opening}
        ready = self._called - waiting
        if waiting and self._monotonic() <= self._called_at + PATIENCE_SECONDS:
            return set()
        self._called -= ready
        return ready

    def sweep_begins(self, activity: Activity[D]) -> bool:
        """True if a sweep begins now: one at a time, when nothing else is to be done."""
        return self._sweep_is_due and not activity.is_sweeping and self._is_quiet(activity)

    def take_unswept(self, polled: Collection[S]) -> list[S]:
        """Returns the streams that are swept now: not those that are still being polled.

        The next sweep comes after the next poll; without one, the streams left out are swept later.
        """
        streams = [stream for stream in self._streams if stream in self._unswept and stream not in polled]
        self._unswept &= set(polled)
        self._sweep_is_due = self._is_once and bool(self._unswept)
        return streams

    def take_background(self, activity: Activity[D]) -> T | None:
        """Returns the task of the background that begins now, if one does: when nothing else is due."""
        if self._background and not self._sweep_is_due and self._is_quiet(activity):
            return self._background.pop(0)
        return None

    def is_patient(self, due_since: float, events: int) -> bool:
        """True if a step of so many events still waits for a destination that is busy."""
        return self._monotonic() < due_since + PATIENCE_SECONDS + events / SLOWEST_EVENTS_PER_SECOND

    def note_handed_over(self, *, is_sweep: bool) -> None:
        """Notes a step that was handed over: after one of a sweep, the next is read after the next poll, if any."""
        self.may_sweep = self.may_sweep and (self._is_once or not is_sweep)

    def _is_quiet(self, activity: Activity[D]) -> bool:
        """True if nothing is left to do but to wait for accounts that are slow."""
        is_idle = not self._called and not activity.busy and not activity.is_in_background
        return is_idle and all(self._monotonic() > begun + PATIENCE_SECONDS for begun in activity.polls)


def backoff_seconds(failures_in_a_row: int, longest_seconds: float) -> float:
    """Returns the pause of a destination: 2, 4, 8 … seconds."""
    return min(longest_seconds, 2.0 ** min(failures_in_a_row, 10))


def pause_seconds(error: AccountError, took_seconds: float, now: datetime, longest_seconds: float) -> float:
    """Returns the pause of an account that was not read."""
    if isinstance(error, RateLimitedError):
        return (error.until - now).total_seconds()
    if isinstance(error, RefusedError):
        return REFUSED_PAUSE_SECONDS
    return min(FAILED_PAUSE_FACTOR * took_seconds, longest_seconds)
