"""Work in units that are independent and may be repeated, several side by side. Does not know where they are done."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Generic, NamedTuple, TypeVar

from pipelines.loop.account_failures import AccountFailures
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.budget import Budgets
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, BrokenObjectError, TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

Unit = TypeVar("Unit", bound=Hashable)
Result = TypeVar("Result")


class BrokenUnitError(AuditLogsError):
    """The unit cannot be done, wherever it is tried. The others go on."""


class UnfitWorkerError(AuditLogsError):
    """The worker cannot do any unit: its settings are not right. Nothing goes on."""


@dataclass
class Shared:
    """What the workers of a command have in common, as far as they are in one process."""

    streams: Sequence[Stream] = ()
    """All that the command is about."""
    stop: threading.Event = field(default_factory=threading.Event)
    budgets: Budgets = field(default_factory=Budgets)
    given_up: dict[Stream, AccountError] = field(default_factory=dict)
    """Streams that no worker asks for any more, and why."""

    def __post_init__(self) -> None:
        self._accounts = AccountFailures(self.streams)

    def give_up(self, stream: Stream) -> None:
        """Raises an account's error again: whoever refused it one day need not be asked for the others."""
        if stream in self.given_up:
            raise self.given_up[stream]

    def note_readable(self, stream: Stream) -> None:
        """Notes that a unit was done."""
        self._accounts.readable.add(stream)
        self._accounts.log(at_once=True)

    def note_failure(self, stream: Stream, error: AuditLogsError) -> None:
        """Keeps a stream's first error, and tells it: a refusal when it is known what became of the other versions."""
        if stream not in self.failed:
            if isinstance(error, AccountError):
                self.given_up.setdefault(stream, error)
            self._accounts.note(stream, error)
            self._accounts.log(at_once=True)

    def tell_rest(self) -> None:
        """Tells what is left: no unit is to come."""
        self._accounts.log(at_once=True, is_last=True)

    @property
    def failed(self) -> dict[Stream, AuditLogsError]:
        """The first error of each stream; refused versions, too."""
        return self._accounts.failed

    @property
    def refused_versions(self) -> dict[Stream, AuditLogsError]:
        """The streams that are refused while their account can be read in another version: they fail nothing."""
        return self._accounts.refused_versions

    @property
    def failures(self) -> dict[Stream, AuditLogsError]:
        """The other ones that failed."""
        return self._accounts.failing

    @property
    def exit_code(self) -> int:
        """0 no failure, 75 all of them pass by themselves, 1 otherwise."""
        errors = self.failures.values()
        if not errors:
            return 0
        return 75 if all(isinstance(error, TemporaryError) for error in errors) else 1


OpenThread = Callable[[str], AbstractContextManager[Callable[[Unit], Result]]]
"""Opens what one thread needs, given a name that no other one has, and gives the function that does a unit."""


OpenUnit = Callable[[Settings, Shared, str], AbstractContextManager[Callable[[Any], Any]]]
"""The same, wherever that thread is."""


class Pool(NamedTuple, Generic[Unit, Result]):
    """Where units are done."""

    submit: "Callable[[Unit], Future[Result | AuditLogsError]]"
    width: Callable[[], int]
    """How many units may be given to it at once, now; raises when nobody is there any more to do them."""


def run_units(
    units: Iterable[Unit],
    open_thread: "OpenThread[Unit, Result]",
    *,
    workers: int,
    stop: threading.Event,
) -> Iterator[tuple[Unit, Result | AuditLogsError]]:
    """As `results_of`, by threads of this process."""
    with thread_pool(open_thread, workers=workers, stop=stop) as pool:
        yield from results_of(units, pool)


def results_of(units: Iterable[Unit], pool: "Pool[Unit, Result]") -> Iterator[tuple[Unit, Result | AuditLogsError]]:
    """Yields each unit with its result, or with its error, as they end.

    An error that would be that of the other units, too (a store is down), is raised.
    """
    left, futures = iter(units), dict[Future[Result | AuditLogsError], Unit]()
    while True:
        for unit in islice(left, max(0, pool.width() - len(futures))):
            futures[pool.submit(unit)] = unit
        if not futures:
            return
        # Not without a timeout: PostgreSQL's driver sees to it that Ctrl-C would not end the waiting.
        for future in wait(futures, timeout=0.2, return_when=FIRST_COMPLETED).done:
            yield futures.pop(future), _outcome(future)


@contextmanager
def thread_pool(
    open_thread: "OpenThread[Unit, Result]", *, workers: int, stop: threading.Event
) -> "Iterator[Pool[Unit, Result]]":
    """Threads of this process; at the end, `stop` is set so that those that wait for something give up."""
    numbers, own = count(), threading.local()
    with ExitStack() as opened:
        executor = ThreadPoolExecutor(workers)

        def run(unit: Unit) -> Result | AuditLogsError:
            if not hasattr(own, "work"):
                own.work = opened.enter_context(open_thread(str(next(numbers))))
            result: Result = own.work(unit)
            return result

        try:
            yield Pool(lambda unit: executor.submit(run, unit), lambda: 2 * workers)
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def _outcome(future: "Future[Result | AuditLogsError]") -> Result | AuditLogsError:
    error = future.exception()
    outcome = error if isinstance(error, AuditLogsError) else future.result()
    if isinstance(outcome, AuditLogsError) and is_of_all_units(outcome):
        raise outcome
    return outcome


def is_of_all_units(error: AuditLogsError) -> bool:
    """True if the other units would meet it, too: a store is down, or refuses us."""
    return not isinstance(error, AccountError | BrokenObjectError | BrokenUnitError)
