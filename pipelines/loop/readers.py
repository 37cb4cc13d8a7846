"""Threads that read the API side by side. A slow account holds back no other: of one token, only some read at once."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

Subject = TypeVar("Subject")

THREADS = 32
"""They mostly wait for answers; what a thousand quiet accounts take: docs/scale-many.md."""

THREADS_OF_A_QUEUE = 4
"""One token is one queue: these send its 4 requests a second; if it gets no answers, no more of them wait."""

DOUBTFUL = "failed last"
"""The name of the queue of accounts that failed when they were read last."""
THREADS_OF_DOUBTFUL = 8
"""However many do not answer, the others have three quarters of the readers."""


class Read(NamedTuple, Generic[Subject]):
    """A reading that came to its end."""

    subject: Subject
    """What it was about, as given."""
    future: "Future[Any]"
    seconds: float


class Readers(Generic[Subject]):
    """Reads for whoever asks, as long as there is room. Leaving the context waits for nobody."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._executor = ThreadPoolExecutor(THREADS, "reader")
        self._in_hand: dict[Future[Any], tuple[str, Subject, float]] = {}
        self._of_queue: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def futures(self) -> list["Future[Any]"]:
        """What is in hand."""
        return list(self._in_hand)

    @property
    def have_room(self) -> bool:
        """True if a thread is free."""
        return len(self._in_hand) < THREADS

    def have_room_for(self, queue: str) -> bool:
        """True if one may read of this queue."""
        return self._of_queue[queue] < (THREADS_OF_DOUBTFUL if queue == DOUBTFUL else THREADS_OF_A_QUEUE)

    def submit(self, queue: str, subject: Subject, read: Callable[[], Any]) -> None:
        """Begins to read."""
        self._of_queue[queue] += 1
        self._in_hand[self._executor.submit(read)] = queue, subject, self._monotonic()

    def collect(self) -> Iterator[Read[Subject]]:
        """Yields what has ended since the last time."""
        for future in [future for future in self._in_hand if future.done()]:
            queue, subject, begun = self._in_hand.pop(future)
            self._of_queue[queue] -= 1
            yield Read(subject, future, self._monotonic() - begun)
