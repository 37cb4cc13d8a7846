"""When a question has to be answered, and whether anybody still waits for the answer."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sources.cloudflare_audit_logs.errors import AuditLogsError

LONGEST_ANSWER_SECONDS = 30.0


class Deadline:
    """The end of a question: its time is over, or its page is gone. It may be given up from another thread."""

    def __init__(self, seconds: float = LONGEST_ANSWER_SECONDS) -> None:
        self._ends = time.monotonic() + seconds
        self._lock, self._stop, self.is_given_up = threading.Lock(), list[Callable[[], None]](), False

    def check(self) -> None:
        """Raises AuditLogsError when it is over."""
        if self.is_given_up or time.monotonic() > self._ends:
            raise self.error()

    @property
    def seconds_left(self) -> float:
        """Not less than none."""
        return max(0.0, self._ends - time.monotonic())

    @contextmanager
    def interrupting(self, stop: Callable[[], None]) -> Iterator[None]:
        """A block whose question is stopped when the deadline is over."""
        timer = threading.Timer(self.seconds_left, self.give_up)
        with self._lock:
            self._stop.append(stop)
        self.check()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._stop.remove(stop)

    def give_up(self) -> None:
        """Stops what is being asked, and whatever is asked later."""
        with self._lock:
            self.is_given_up = True
            for stop in self._stop:
                stop()

    @staticmethod
    def error() -> AuditLogsError:
        """The same of both stores."""
        return AuditLogsError("the question took too long", hint="choose a shorter time or an account")
