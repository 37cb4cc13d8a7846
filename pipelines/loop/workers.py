"""A thread for each destination, so that a slow one holds back no other. One task at a time; none can hang for ever."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

Owner = TypeVar("Owner")
Subject = TypeVar("Subject")


class Finished(NamedTuple, Generic[Owner, Subject]):
    """A task that came to its end."""

    owner: Owner
    subject: Subject
    """What it was about, as given."""
    future: "Future[Any]"


class Workers(Generic[Owner, Subject]):
    """Runs the tasks of each owner in a thread of its own. Leaving the context waits for what is in hand."""

    def __init__(self, deadline_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._deadline_seconds, self._monotonic = deadline_seconds, monotonic
        self._executors: dict[Owner, ThreadPoolExecutor] = {}
        self._tasks: dict[Owner, tuple[Future[Any], Subject, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for executor in self._executors.values():
            executor.shutdown()

    @property
    def are_idle(self) -> bool:
        """True if no owner has a task in hand."""
        return not self._tasks

    def is_busy(self, owner: Owner) -> bool:
        """True if this owner has a task in hand, or one that was not collected yet."""
        return owner in self._tasks

    def busy_seconds(self, owner: Owner) -> float:
        """How long this owner has been at its task; 0 without one."""
        return self._monotonic() - self._tasks[owner][2] if owner in self._tasks else 0.0

    def subject_of(self, owner: Owner) -> Subject:
        """What the task is about that this owner has in hand."""
        return self._tasks[owner][1]

    @property
    def futures(self) -> list["Future[Any]"]:
        """What is in hand."""
        return [future for future, _, _ in self._tasks.values()]

    def submit(self, owner: Owner, subject: Subject, task: Callable[[], Any]) -> None:
        """Gives the owner, who must not be busy, a task."""
        executor = self._executors.setdefault(owner, ThreadPoolExecutor(1))
        self._tasks[owner] = executor.submit(self._run, task), subject, self._monotonic()

    def collect(self) -> Iterator[Finished[Owner, Subject]]:
        """Yields the tasks that have ended since the last time."""
        for owner, (future, subject, _) in list(self._tasks.items()):
            if future.done():
                del self._tasks[owner]
                yield Finished(owner, subject, future)

    def _run(self, task: Callable[[], Any]) -> Any:
        with _deadline(self._deadline_seconds):
            return task()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Ends the process, with a traceback of every thread, if the block takes longer."""
    timer = threading.Timer(seconds, _end_process)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_process() -> None:
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)
