"""Threads that do tasks: they stay, as connections are kept by thread, and end with the process. Knows no task."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Subject = TypeVar("Subject")


@dataclass(eq=False)
class Task(Generic[Subject]):
    """A task that was given to a thread."""

    subject: Subject
    queue: str
    begun: float
    seconds: float = 0.0
    """The time it took, once it has ended."""
    future: "Future[Any]" = field(default_factory=Future)


class Threads(Generic[Subject]):
    """Does each task at once, in a new thread if none is free. Used by one thread, which limits the tasks."""

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.tasks: list[Task[Subject]] = []
        """The tasks that were not collected yet."""
        self._name, self._monotonic, self._count = name, monotonic, 0
        self._waiting = SimpleQueue[tuple[Task[Subject], Callable[[], Any]] | None]()

    @property
    def futures(self) -> list["Future[Any]"]:
        """The results of the tasks that were not collected yet."""
        return [task.future for task in self.tasks]

    def submit(self, subject: Subject, work: Callable[[], Any], *, queue: str = "") -> None:
        """Begins a task; raises RuntimeError if the system has no thread left."""
        if self._count <= len(self.tasks):
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._count += 1
        task = Task(subject, queue, self._monotonic())
        self.tasks.append(task)
        self._waiting.put((task, work))

    def collect(self) -> list[Task[Subject]]:
        """Returns the tasks that have ended since the last call."""
        ended = [task for task in self.tasks if task.future.done()]
        self.tasks = [task for task in self.tasks if task not in ended]
        return ended

    def overdue(self, seconds: float) -> list[Task[Subject]]:
        """Returns the tasks that have taken so long and have not ended."""
        since = self._monotonic() - seconds
        return [task for task in self.tasks if task.begun <= since and not task.future.done()]

    def abandon(self, task: Task[Subject]) -> None:
        """Leaves a task, and its thread, to itself."""
        self.tasks.remove(task)
        self._count -= 1

    def close(self) -> None:
        """Ends each thread as soon as it is free; waits for none."""
        for _ in range(self._count):
            self._waiting.put(None)

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            self._do(*job)
            del job  # what was read is not held while the thread waits

    def _do(self, task: Task[Subject], work: Callable[[], Any]) -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # raised where the result is taken
            task.seconds = self._monotonic() - task.begun
            task.future.set_exception(error)
        else:
            task.seconds = self._monotonic() - task.begun
            task.future.set_result(result)
