"""Asks several at once, each in a thread of its own, and waits for none longer than it may take. Knows no store.

A store that accepts connections and never answers must not hide the others. Its thread goes on hanging: the process
ends without it (`entry.end`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from sources.cloudflare_audit_logs.errors import TemporaryError

PATIENCE_SECONDS = 10
"""For a store, whoever asks waits for it."""

STATEMENT_TIMEOUT_SQL = "SET statement_timeout = '9s'"
"""For those who wait no longer: PostgreSQL itself ends what they have given up."""

T = TypeVar("T")


class SilentError(TemporaryError):
    """No answer came in time."""


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
        """Each part as soon as it is there.

        Raises:
            SilentError: the rest did not come in time.
            BaseException: what the question raised.
        """
        while (answer := self._next()) is not None:
            if isinstance(answer, BaseException):
                raise answer
            yield answer[0]

    def _next(self) -> tuple[T] | BaseException | None:
        try:
            return self._answers.get(timeout=max(0.0, self._until - time.monotonic()))
        except Empty:
            hint = "it accepts connections and does not answer, or is very slow"
            raise SilentError(f"no answer in {self._seconds:g} s", hint=hint) from None


def answers_of(questions: Mapping[str, Callable[[], T]]) -> dict[str, T | TemporaryError]:
    """The answer to each question, all asked at once, or that there is none."""
    asked: dict[str, Asked[T]] = {name: Asked(partial(_in_one_part, ask)) for name, ask in questions.items()}
    answers: dict[str, T | TemporaryError] = {}
    for name, one in asked.items():
        answer = _answer_of(one)
        answers[name] = answer
    return answers


def _in_one_part(ask: Callable[[], T]) -> Iterator[T]:
    yield ask()


def _answer_of(asked: Asked[T]) -> T | TemporaryError:
    try:
        (answer,) = asked.answers()
    except SilentError as error:
        return error
    return answer
