"""Asks several at once, each in a thread of its own, and waits for none longer than it may take. Knows no store.

A store that accepts connections and never answers must not hide the others. Its thread goes on hanging: the process
ends without it (`entry.end`).
"""

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from sources.cloudflare_audit_logs.errors import TemporaryError

PATIENCE_SECONDS = 10
"""The longest wait for a store."""

STATEMENT_TIMEOUT_SQL = "SET statement_timeout = '9s'"
"""PostgreSQL itself ends a statement that nobody waits for any more."""

MOST_AT_ONCE = 32
"""Questions of one kind, which mostly wait."""

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


class SilentError(TemporaryError):
    """No answer came in time."""


def silence(seconds: float = PATIENCE_SECONDS) -> SilentError:
    """The error for no answer."""
    hint = "it accepts connections and does not answer, or is very slow"
    return SilentError(f"no answer in {seconds:g} s", hint=hint)


class Asked(Generic[T]):
    """A question whose parts are answered one by one, in a thread."""

    def __init__(self, ask: Callable[[], Iterable[T]], seconds: float = PATIENCE_SECONDS) -> None:
        self._ask, self._seconds = ask, seconds
        self._until = time.monotonic() + seconds
        self._answers: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        try:
            for part in self._ask():
                self._answers.put((part,))
            self._answers.put(None)
        except BaseException as error:  # noqa: BLE001  # raised where the answers are awaited
            self._answers.put(error)

    def answers(self) -> Iterator[T]:
        """Each part as soon as it is there; raises what the question raised, or SilentError if the rest is late."""
        while (answer := self._next()) is not None:
            if isinstance(answer, BaseException):
                raise answer
            yield answer[0]

    def _next(self) -> tuple[T] | BaseException | None:
        try:
            return self._answers.get(timeout=max(0.0, self._until - time.monotonic()))
        except Empty:
            raise silence(self._seconds) from None


def answers_of(
    ask: Callable[[S], T], subjects: Collection[S], otherwise: Callable[[S], T], seconds: float = PATIENCE_SECONDS
) -> dict[S, T]:
    """The answer for each, all asked at once, or `otherwise` where none came in time; raises what a question raised."""
    pool = ThreadPoolExecutor(min(max(len(subjects), 1), MOST_AT_ONCE))
    futures = {subject: pool.submit(ask, subject) for subject in subjects}
    wait(futures.values(), seconds)
    pool.shutdown(wait=False, cancel_futures=True)
    return {
        subject: future.result() if future.done() and not future.cancelled() else otherwise(subject)
        for subject, future in futures.items()
    }
