"""Runs independent, repeatable units of work side by side: on threads of this process, or on a Dask cluster."""

import re
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count, islice
from typing import Any, NamedTuple

from tqdm import tqdm

from pipelines.settings.settings import Settings, UsageError
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, BrokenObjectError

from .shared import Shared

OpenUnit = Callable[[Settings, Shared, str], AbstractContextManager[Callable[[Any], Any]]]
"""Opens what one thread needs, given a name of its own, and returns the function that does a unit. A cluster's workers
import it by its name."""


class BrokenUnitError(AuditLogsError):
    """The unit cannot be done, wherever it is tried. The others go on."""


class UnfitWorkerError(AuditLogsError):
    """The settings of a worker are wrong, so it can do no unit. Nothing goes on."""


class Pool(NamedTuple):
    """A place where units are done."""

    submit: Callable[[Any], "Future[Any]"]
    """Its future has a result, or an error, returned or raised."""
    width: Callable[[], int]
    """Returns how many units may be submitted at once, now; raises if no worker is left."""


def add_scheduler_option(parser: ArgumentParser) -> None:
    """Adds `--scheduler`, which `open_pool` takes."""
    text = "let the workers of this Dask scheduler do it (tcp://HOST:PORT or tls://HOST:PORT)"
    parser.add_argument("--scheduler", type=_address, metavar="URL", help=text)


def _address(text: str) -> str:
    if not re.fullmatch(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}", text):
        raise ArgumentTypeError(f"{text!r:.80} is not a scheduler: write it as tcp://HOST:8786")
    return text


def open_pool(
    scheduler: str | None, open_unit: OpenUnit, settings: Settings, shared: Shared, *, threads: int, asks_api: bool
) -> AbstractContextManager[Pool]:
    """Opens a pool of threads, or that of a scheduler's workers, for as long as the block runs.

    Raises:
        UsageError: Dask is not installed.
        AuditLogsError: the cluster cannot be reached, or has a worker with wrong settings.
    """
    if scheduler is None:
        return _thread_pool(open_unit, settings, shared, threads)
    try:
        from .dask_pool import dask_pool  # noqa: PLC0415  # half a second, and packages that only this option needs
    except ModuleNotFoundError as error:
        raise UsageError(f"--scheduler needs Dask ({error}): see docs/scale/dask.md") from error
    return dask_pool(scheduler, open_unit, settings, asks_api=asks_api)


@contextmanager
def _thread_pool(open_unit: OpenUnit, settings: Settings, shared: Shared, threads: int) -> Iterator[Pool]:
    """At its end, `shared.stop` is set, so that a thread that waits for something gives up."""
    numbers, own = count(), threading.local()
    with ExitStack() as opened:
        executor = ThreadPoolExecutor(threads)

        def run(unit: Any) -> Any:
            if not hasattr(own, "work"):
                own.work = opened.enter_context(open_unit(settings, shared, str(next(numbers))))
            return own.work(unit)

        try:
            yield Pool(lambda unit: executor.submit(run, unit), lambda: 2 * threads)
        finally:
            shared.stop.set()
            executor.shutdown(cancel_futures=True)


def run_units(units: Sequence[Any], pool: Pool, title: str, progress: Callable[[], str]) -> Iterator[tuple[Any, Any]]:
    """Yields as `results_of`, and shows a progress bar on a terminal."""
    with tqdm(total=len(units), unit=" days", desc=title, disable=not sys.stderr.isatty()) as bar:
        for unit, result in results_of(units, pool):
            yield unit, result
            bar.update()
            bar.set_postfix_str(progress())


def results_of(units: Iterable[Any], pool: Pool) -> Iterator[tuple[Any, Any]]:
    """Yields each unit with its result or its error as it ends; raises an error that the other units would meet too."""
    left, futures = iter(units), dict[Future[Any], Any]()
    while True:
        for unit in islice(left, max(0, pool.width() - len(futures))):
            futures[pool.submit(unit)] = unit
        if not futures:
            return
        # Not without a timeout: PostgreSQL's driver sees to it that Ctrl-C would not end the waiting.
        for future in wait(futures, timeout=0.2, return_when=FIRST_COMPLETED).done:
            error = future.exception()
            result = error if isinstance(error, AuditLogsError) else future.result()
            if is_of_all_units(result):
                raise result
            yield futures.pop(future), result


def is_of_all_units(result: Any) -> bool:
    """True if it is an error that the other units would meet, too: a store is down, or refuses us."""
    of_one_unit = AccountError | BrokenObjectError | BrokenUnitError
    return isinstance(result, AuditLogsError) and not isinstance(result, of_one_unit)
