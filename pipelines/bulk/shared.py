"""The state that the workers of a command share within one process: each stream's failure, and the budgets."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Shared:
    """Notes which streams were read and which failed; a stream that failed is not asked for again."""

    streams: Sequence[Stream] = ()
    """All streams of the command."""
    stop: threading.Event = field(default_factory=threading.Event)
    budgets: Budgets = field(default_factory=Budgets)
    given_up: dict[Stream, AccountError] = field(default_factory=dict)
    """The error of each stream that is not asked for any more."""

    def __post_init__(self) -> None:
        self._accounts = AccountFailures(self.streams)

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
                self._accounts.readable.add(stream)
                self._accounts.log(at_once=True)
                yield result
        self._accounts.log(at_once=True, is_last=True)

    def note_failure(self, stream: Stream, error: AuditLogsError) -> None:
        """Keeps a stream's first error, and reports it: a refusal when the other versions have answered or failed."""
        if stream not in self._accounts.failed:
            self._accounts.note(stream, error)
            self._accounts.log(at_once=True)

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
        return exit_code_of(*self.failures.values())

    def as_json(self) -> dict[str, dict[str, str]]:
        """Returns the failures of a command's result, by stream."""
        failures = {"failed_accounts": self.failures, "refused_versions": self.refused_versions}
        return {name: {stream.name: str(error) for stream, error in its.items()} for name, its in failures.items()}
