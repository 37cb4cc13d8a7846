"""Work that no event depends on: one task at a time, handed to the loop by `run.py`.

A task may raise anything, and may hang: then it is asked to stop and left to itself, and another one may begin. At most
`MOST_HANGING` tasks may hang at the same time.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from sources.cloudflare_audit_logs.errors import TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

from .threads import Task, Threads

MOST_HANGING = 3
"""Each of them holds a thread, connections, memory."""

PATIENCE_SECONDS = 5
"""A task that is asked to stop at the end has so long."""

Begins = Mapping[Stream, datetime]
"""The streams that every destination holds, and from when on."""


class BackgroundTask(Protocol):
    """Work to be done now and then, when the loop is quiet."""

    @property
    def deadline_seconds(self) -> float:
        """The time after which it counts as hanging."""

    @property
    def is_due(self) -> bool:
        """True if there may be something to do."""

    def work(self, begins: Begins, stop: threading.Event) -> Any:
        """Does it, in a thread of its own; ends early when `stop` is set."""

    def note(self, ended: "Future[Any]") -> None:
        """Takes the result or the error of `work`, in the loop's thread."""


Doing = tuple[BackgroundTask, threading.Event]


class Background:
    """Does tasks, one at a time. Used by one thread."""

    def __init__(self, tasks: Sequence[BackgroundTask], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._tasks, self._threads = tasks, Threads[Doing]("background", monotonic)
        self._hanging: list[Task[Doing]] = []

    def close(self) -> None:
        """Asks the task that is under way to stop, and waits a little for it."""
        for task in self._threads.tasks:
            task.subject[1].set()
        wait(self.futures, PATIENCE_SECONDS)
        self._threads.close()

    @property
    def futures(self) -> list["Future[Any]"]:
        """The task that is under way."""
        return self._threads.futures

    @property
    def _has_room(self) -> bool:
        self._hanging = [task for task in self._hanging if not task.future.done()]
        return not self._threads.tasks and len(self._hanging) < MOST_HANGING

    @property
    def due(self) -> list[BackgroundTask]:
        """The tasks that may begin, one after the other."""
        return [task for task in self._tasks if task.is_due] if self._has_room else []

    def begin(self, task: BackgroundTask, begins: Begins) -> None:
        """Begins a task, if there is room."""
        if self._has_room:
            stop = threading.Event()
            try:
                self._threads.submit((task, stop), partial(task.work, begins, stop))
            except RuntimeError as error:  # no thread is to be had
                task.note(_failed(error))

    def collect(self) -> bool:
        """Passes on the result of a task that has ended, or hangs; False if there is none."""
        ended = self._threads.collect()
        for task in ended:
            task.subject[0].note(task.future)
        hanging = [t for t in self._threads.tasks if t in self._threads.overdue(t.subject[0].deadline_seconds)]
        for task in hanging:
            self._give_up(task)
        return bool(ended or hanging)

    def _give_up(self, task: Task[Doing]) -> None:
        doing, stop = task.subject
        stop.set()
        self._threads.abandon(task)
        self._hanging.append(task)
        problem = f"it hangs: it has taken more than {doing.deadline_seconds:.0f} s, and is left to itself"
        full = f"{len(self._hanging)} hang, so no other one begins until one of them ends, or the next start"
        doing.note(_failed(TemporaryError(problem, hint="" if self._has_room else full)))


def _failed(error: Exception) -> "Future[Any]":
    ended = Future[Any]()
    ended.set_exception(error)
    return ended
