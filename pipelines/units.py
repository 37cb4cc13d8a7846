"""Work in units that are independent and may be repeated, several side by side."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import TypeGuard, TypeVar

from sources.cloudflare_audit_logs.budget import Budget
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

from .logs import log

Unit = TypeVar("Unit", bound=Hashable)
Result = TypeVar("Result")


@dataclass
class Shared:
    """What the workers of a command have in common."""

    stop: threading.Event = field(default_factory=threading.Event)
    budget: Budget = field(default_factory=Budget)
    failures: dict[Stream, AuditLogsError] = field(default_factory=dict)
    """The first error of each account."""

    def give_up(self, stream: Stream) -> None:
        """Raises an account's error again: whoever refused it one day need not be asked for the others."""
        if isinstance(self.failures.get(stream), AccountError):
            raise self.failures[stream]

    def note_failure(self, stream: Stream, error: AuditLogsError) -> None:
        """Keeps an account's first error, and says so."""
        if stream not in self.failures:
            self.failures[stream] = error
            log.error("account.failed", account=stream.account_id, version=stream.api_version, error=error)

    @property
    def exit_code(self) -> int:
        """0 no failure, 75 all of them pass by themselves, 1 otherwise."""
        if not self.failures:
            return 0
        return 75 if all(isinstance(error, TemporaryError) for error in self.failures.values()) else 1


OpenWorker = Callable[[int], AbstractContextManager[Callable[[Unit], Result]]]
"""Opens what one thread needs, given its number, and gives the function that does a unit."""


def run_units(
    units: Iterable[Unit],
    open_worker: "OpenWorker[Unit, Result]",
    *,
    workers: int,
    stop: threading.Event,
) -> Iterator[tuple[Unit, Result | AuditLogsError]]:
    """Yields each unit with its result, or with its error, as they end.

    An error that would be that of the other units, too (a store is down), is raised, and `stop` is set so that those
    that wait for something give up.
    """
    numbers, own = count(), threading.local()
    with ExitStack() as opened:
        pool = ThreadPoolExecutor(workers)

        def run(unit: Unit) -> Result:
            if not hasattr(own, "work"):
                own.work = opened.enter_context(open_worker(next(numbers)))
            result: Result = own.work(unit)
            return result

        try:
            futures: dict[Future[Result], Unit] = {pool.submit(run, unit): unit for unit in units}
            while futures:
                # Not without a timeout: PostgreSQL's driver sees to it that Ctrl-C would not end the waiting.
                for future in wait(futures, timeout=0.2, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    yield futures.pop(future), error if _is_its_own(error) else future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _is_its_own(error: BaseException | None) -> TypeGuard[AuditLogsError]:
    return isinstance(error, AuditLogsError) and not (
        isinstance(error, TemporaryError) and not isinstance(error, AccountError)
    )
