"""The accounts' failures, and their log lines: one for all that met the same. A wrong token is one mistake, not sixty.

A version that is refused while the account can be read in another one is a warning, once.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from pipelines.fetch.refusals import hint_for, is_undecided, refused_versions, words_of
from pipelines.host.logs import log
from sources.cloudflare_audit_logs.errors import AuditLogsError, RefusedError
from sources.cloudflare_audit_logs.streams import Stream

GATHERING_SECONDS = 2
"""A failure waits so long for others like it."""

MOST_NAMED = 5
"""Accounts in a line; the result, the metrics and /readyz name each."""

Lines = defaultdict[tuple[str, ...], list[Stream]]
"""The streams of each log line, by the fields that they share."""


class AccountFailures:
    """Notes failures in one thread; other threads may read them at any time."""

    def __init__(self, asked: Iterable[Stream] = (), monotonic: Callable[[], float] = time.monotonic) -> None:
        """A refusal is logged when the account's other versions among these have answered or failed."""
        self.failed: dict[Stream, AuditLogsError] = {}
        """The error of each stream that failed when it was read last."""
        self.readable: set[Stream] = set()
        """The streams of which something was read."""
        self.read: set[Stream] = set()
        """The streams that were read to the end."""
        self._asked, self._monotonic = frozenset(asked), monotonic
        self._unlogged: dict[Stream, tuple[AuditLogsError, str]] = {}
        self._refused: set[Stream] = set()
        """Versions whose refusal was logged."""
        self._since = 0.0

    @property
    def refused_versions(self) -> dict[Stream, AuditLogsError]:
        """The streams that are refused while their account can be read in another version: they fail nothing."""
        return refused_versions(dict(self.failed), self.readable)  # a copy: others ask from their threads

    @property
    def failing(self) -> dict[Stream, AuditLogsError]:
        """The other streams that failed: they fail the run."""
        refused = self.refused_versions
        return {stream: error for stream, error in dict(self.failed).items() if stream not in refused}

    def note(self, stream: Stream, error: AuditLogsError, retry: str = "") -> None:
        """Notes a failure; `retry` says when the stream is tried again, if it is."""
        if not self._unlogged:
            self._since = self._monotonic()
        self.failed[stream] = error
        self._unlogged[stream] = error, retry

    def note_readable(self, stream: Stream) -> None:
        """Notes that something was read: the stream is not refused any more."""
        self.readable.add(stream)
        if isinstance(self.failed.get(stream), RefusedError):
            del self.failed[stream]
        if stream in self._refused:
            self._refused.remove(stream)
            log.info("version.granted", account=stream.account_id, version=stream.api_version)

    def note_read(self, streams: Iterable[Stream]) -> None:
        """Notes streams that were read to the end: they have not failed any more."""
        for stream in streams:
            self.read.add(stream)
            self.failed.pop(stream, None)

    def log(self, *, at_once: bool, is_last: bool = False) -> None:
        """Logs what has waited long enough, or all. Undecided refusals wait on, unless nothing more is to come."""
        if not self._unlogged or not (at_once or self._monotonic() >= self._since + GATHERING_SECONDS):
            return
        refused = self.refused_versions
        failures, refusals = Lines(list), Lines(list)
        for stream, (error, retry) in list(self._unlogged.items()):
            if not is_last and is_undecided(stream, self.failed, self.readable, self._asked):
                continue
            del self._unlogged[stream]
            if stream not in refused:
                failures[str(error), retry].append(stream)
            elif stream not in self._refused:
                self._refused.add(stream)
                refusals[words_of(error), retry, stream.api_version].append(stream)
        for (words, retry), streams in failures.items():
            about = {"error": words, **({"retry": retry} if retry else {})}
            versions = ",".join(sorted({stream.api_version for stream in streams}))
            log.error("account.failed", account=_named(streams), version=versions, **about)
        for (words, retry, version), streams in refusals.items():
            about = {"version": version, "error": words, **({"retry": retry} if retry else {})}
            hint = f"nothing else is held up; {hint_for(version)}"
            log.warning("version.refused", account=_named(streams), **about, hint=hint)


def _named(streams: Sequence[Stream]) -> str:
    accounts = list(dict.fromkeys(stream.account_id for stream in streams))
    more = f" and {len(accounts) - MOST_NAMED} more" if len(accounts) > MOST_NAMED else ""
    return ",".join(accounts[:MOST_NAMED]) + more
