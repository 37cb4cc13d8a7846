"""Who is left alone, and until when: destinations and accounts that failed, tokens that are shut out."""

import random
import time
from collections import Counter
from collections.abc import Callable, Hashable
from datetime import datetime

from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AccountError, RateLimitedError, RefusedError

REFUSED_PAUSE_SECONDS = 300
"""How long an account is left alone that the API refuses: only an operator can mend it."""

FAILED_PAUSE_FACTOR = 2
"""An account that failed is left alone for so many times as long as that took: it may hold a third of a reader."""


class Pauses:
    """Kept in memory alone: whoever starts anew tries all of them."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._longest_seconds = settings.backoff_max_seconds
        self._until: dict[Hashable, float] = {}
        self._failures: Counter[Hashable] = Counter()

    def include(self, subject: Hashable) -> bool:
        """True if it is left alone now."""
        return self._until.get(subject, 0.0) > self._monotonic()

    def pause(self, subject: Hashable, seconds: float) -> None:
        """Leaves it alone for so long."""
        self._until[subject] = self._monotonic() + seconds

    def after_failure(self, destination: Hashable) -> float:
        """Leaves a destination alone, each time longer; returns the seconds."""
        self._failures[destination] += 1
        seconds = min(self._longest_seconds, 2.0 ** min(self._failures[destination], 10))
        self.pause(destination, seconds)
        return seconds

    def after_success(self, destination: Hashable) -> None:
        """Its next failure is its first."""
        self._failures[destination] = 0

    def seconds_after(self, error: AccountError, took_seconds: float, now: datetime) -> float:
        """How long to leave an account alone that was not read."""
        if isinstance(error, RateLimitedError):
            return (error.until - now).total_seconds()
        if isinstance(error, RefusedError):
            return REFUSED_PAUSE_SECONDS
        # Not all of those that failed together are to come back together.
        spread = random.uniform(1, 1.5)  # noqa: S311  # no secret
        return min(FAILED_PAUSE_FACTOR * took_seconds * spread, self._longest_seconds)
