"""The state that the workers of a command share within one process: each stream's failure, and the budgets."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipelines.fetch.api import sleep_until
from pipelines.host.logs import log
from pipelines.host.transient import exit_code_of
from pipelines.loop.account_failures import AccountFailures
from sources.cloudflare_audit_logs.budget import Budgets
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, RateLimitedError
from sources.cloudflare_audit_logs.streams import Stream

MOST_STREAMS = 4
"""Read side by side: the budget is 2 requests a second, whoever sends them."""

Result = TypeVar("Result")


class Shared(AccountFailures):
    """Notes which streams were read and which failed; a stream that failed is not asked for again."""

    def __init__(self, streams: Sequence[Stream] = ()) -> None:
        """With all streams of the command."""
        super().__init__(streams)
        self.streams, self.stop, self.budgets = streams, threading.Event(), Budgets()
        self.locks = {stream.account_id: threading.Lock() for stream in streams}
        """By account, for what one worker may do at a time."""
        self.given_up: dict[Stream, AccountError] = {}
        """The error of each stream that is not asked for any more."""

    @property
    def threads(self) -> int:
        """The number of streams that are read at a time."""
        return min(MOST_STREAMS, len(self.streams))

    def ask(self, command: str, stream: Stream, work: Callable[[], Result]) -> Result:
        """Does work that asks the API for a stream; does it again when a rate limit is over.

        Raises:
            AccountError: the stream cannot be read, now or when it was asked for before.
        """
        if stream in self.given_up:
            raise self.given_up[stream]
        while True:
            try:
                return work()
            except RateLimitedError as error:
                log.warning(f"{command}.rate_limited", error=error)
                sleep_until(error.until, self.stop)
            except AccountError as error:
                self.given_up.setdefault(stream, error)
                raise

    def results_of(self, done: Iterable[tuple[tuple[Stream, Any], Any]]) -> Iterator[Any]:
        """Yields the results of the units that were done, and reports the errors of the others."""
        for (stream, _), result in done:
            if isinstance(result, AuditLogsError):
                self.note_failure(stream, result)
            else:
                self.readable.add(stream)
                self.log(at_once=True)
                yield result
        self.log(at_once=True, is_last=True)

    def note_failure(self, stream: Stream, error: AuditLogsError) -> None:
        """Keeps a stream's first error, and reports it: a refusal when the other versions have answered or failed."""
        if stream not in self.failed:
            self.note(stream, error)
            self.log(at_once=True)

    @property
    def exit_code(self) -> int:
        """0 no failure, 75 all of them pass by themselves, 1 otherwise."""
        return exit_code_of(*self.failing.values())

    def as_json(self) -> dict[str, dict[str, str]]:
        """Returns the failures of a command's result, by stream."""
        failures = {"failed_accounts": self.failing, "refused_versions": self.refused_versions}
        return {name: {stream.name: str(error) for stream, error in its.items()} for name, its in failures.items()}
