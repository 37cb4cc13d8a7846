"""Counts the requests of one token, and blocks it after too many. Pure: times are the caller's."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass
class Quota:
    """The requests of one token."""

    times: deque[datetime] = field(default_factory=deque)
    """The times of the requests within the last window, refused ones included."""
    blocked_until: datetime = _LONG_AGO

    def count(self, now: datetime, most: int, window: timedelta) -> float:
        """Counts a request; returns the seconds that the token stays blocked, zero if the request may pass."""
        self.times.append(now)
        while self.times[0] <= now - window:
            self.times.popleft()
        if len(self.times) > most and self.blocked_until <= now:
            self.blocked_until = now + window
        return max(0.0, (self.blocked_until - now).total_seconds())


def largest_burst(times: Iterable[datetime], window: timedelta) -> int:
    """The most of the times that lie within any one window."""
    recent: deque[datetime] = deque()
    most = 0
    for time in sorted(times):
        recent.append(time)
        while recent[0] <= time - window:
            recent.popleft()
        most = max(most, len(recent))
    return most
