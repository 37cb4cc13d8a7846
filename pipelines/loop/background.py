"""Work beside the loop that no event depends on: one task at a time, each in a thread that ends with the process.

A task may raise anything, and may hang: then it is left to itself, told to stop should it ever wake up, and another one
may begin. Some may hang like that at the same time, not more.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from sources.cloudflare_audit_logs.errors import TemporaryError

Result = TypeVar("Result")

MOST_HANGING = 3
"""Each holds a thread, connections, memory."""


class Background(Generic[Result]):
    """Used by one thread. A task is given an event, which is set when nobody waits for it any more."""

    def __init__(self, name: str, deadline_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._deadline_seconds, self._monotonic = name, deadline_seconds, monotonic
        self._task: tuple[Future[Result], threading.Event, float] | None = None
        self._hanging: list[Future[Result]] = []

    @property
    def futures(self) -> list["Future[Result]"]:
        """The task in hand."""
        return [self._task[0]] if self._task else []

    @property
    def has_room(self) -> bool:
        """True if a task may begin."""
        self._hanging = [future for future in self._hanging if not future.done()]
        return self._task is None and len(self._hanging) < MOST_HANGING

    def begin(self, work: Callable[[threading.Event], Result]) -> None:
        """Begins a task; there must be room."""
        future, stop = Future[Result](), threading.Event()
        self._task = future, stop, self._monotonic()
        try:
            threading.Thread(target=_do, args=(work, stop, future), name=self._name, daemon=True).start()
        except RuntimeError as error:  # no thread is to be had
            future.set_exception(error)

    def collect(self) -> "Future[Result] | None":
        """The task, if it has ended since the last time, or is given up: that counts as its error."""
        if self._task is None:
            return None
        future, stop, begun = self._task
        if future.done():
            self._task = None
            return future
        if self._monotonic() < begun + self._deadline_seconds:
            return None
        stop.set()
        self._task = None
        self._hanging.append(future)
        return self._given_up()

    def end(self, patience_seconds: float) -> None:
        """Tells the task in hand to stop, and waits a little for it."""
        if self._task is not None:
            future, stop, _ = self._task
            stop.set()
            wait([future], patience_seconds)

    def _given_up(self) -> "Future[Result]":
        problem = f"it hangs: it has taken more than {self._deadline_seconds:.0f} s, and is left to itself"
        full = f"{len(self._hanging)} hang, so no other one begins until one of them ends, or the next start"
        outcome = Future[Result]()
        outcome.set_exception(TemporaryError(problem, hint="" if self.has_room else full))
        return outcome


def _do(work: Callable[[threading.Event], Result], stop: threading.Event, future: "Future[Result]") -> None:
    try:
        future.set_result(work(stop))
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is told where the task is collected
        future.set_exception(error)
