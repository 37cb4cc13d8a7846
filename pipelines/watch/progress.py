"""Progress, and how long there may be none: for `/livez` and for systemd's watchdog. Decided here alone.

Progress is what the loop finishes: a step read, handed over or loaded, a destination opened, a poll that left nothing
to do; and a request to the API, whatever became of it. No timer feeds it.
"""

import time
from collections.abc import Callable

from pipelines.host.aside import aside
from pipelines.loop.loaders import DEADLINE_SECONDS
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.client import LONGEST_ANSWER

GRACE_SECONDS = 60


class Progress:
    """The time of the latest progress. Noted and asked by any thread."""

    def __init__(
        self,
        settings: Settings,
        on_progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.longest_silence_seconds = longest_silence_seconds(settings)
        self._on_progress, self._clock = on_progress, clock
        self._noted_at = clock()

    def note(self) -> None:
        """Notes that there was progress now."""
        self._noted_at = self._clock()
        with aside("progress"):
            self._on_progress()

    @property
    def silent_seconds(self) -> float:
        """The time since the latest progress."""
        return self._clock() - self._noted_at


def longest_silence_seconds(settings: Settings) -> float:
    """Returns the longest wait of a healthy loop: for the next poll, a load, an answer or the next try for one."""
    answer = LONGEST_ANSWER * settings.request_timeout_seconds + settings.backoff_max_seconds
    return max(settings.poll_interval_seconds, DEADLINE_SECONDS, answer) + GRACE_SECONDS
