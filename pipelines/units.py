"""Work in units that are independent and may be repeated, several side by side."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from typing import TypeVar

from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, TemporaryError

Unit = TypeVar("Unit", bound=Hashable)
Result = TypeVar("Result")

OpenWorker = Callable[[int], AbstractContextManager[Callable[[Unit], Result]]]
"""Opens what one thread needs, given its number, and gives the function that does a unit."""


def run_units(
    units: Iterable[Unit],
    open_worker: "OpenWorker[Unit, Result]",
    *,
    workers: int,
    stop: threading.Event,
) -> Iterator[tuple[Unit, Result | AccountError]]:
    """Yields each unit with its result, or with the error of its account, as they end.

    Any other error (a store is down) would be the end of the other units, too: it is raised, and `stop` is set so that
    those that wait for something give up.
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
            for future in as_completed(futures):
                error = future.exception()
                yield futures.pop(future), error if isinstance(error, AccountError) else future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def exit_code_of(failures: Iterable[AuditLogsError]) -> int:
    """0 none, 75 all of them pass by themselves, 1 otherwise."""
    failed = list(failures)
    if not failed:
        return 0
    return 75 if all(isinstance(error, TemporaryError) for error in failed) else 1
