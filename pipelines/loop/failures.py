"""The latest failures, noted here alone: pauses, log lines, exit code, metrics and `/readyz` are derived from them.

They are kept in memory: a new process tries everything again.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime

from pipelines.host.aside import aside
from pipelines.host.logs import log
from pipelines.host.transient import exit_code_of
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import (
    AccountError,
    AuditLogsError,
    RateLimitedError,
)
from sources.cloudflare_audit_logs.streams import Stream

from .account_failures import AccountFailures
from .schedule import backoff_seconds, pause_seconds


class Failures:
    """Notes failures in the loop's thread; other threads may read them at any time."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.accounts = AccountFailures(settings.streams, monotonic)
        self.destinations: dict[str, AuditLogsError] = {}
        """The error of each destination that could not be opened or loaded last."""
        self.stopped_by: AuditLogsError | None = None
        """The reason why no account could be read (the clock is off, say)."""
        self._settings, self._monotonic = settings, monotonic
        self._until: dict[Hashable, float] = {}
        """The end of the pause of each stream, token and destination."""
        self.counts: Counter[str] = Counter()
        """The number of failures of each destination."""
        self._in_a_row: Counter[str] = Counter()

    # --- pauses ---------------------------------------------------------------------------------------------------

    def is_paused(self, destination: str) -> bool:
        """True if the destination is left alone now."""
        return self._until.get(destination, 0.0) > self._monotonic()

    @property
    def streams(self) -> list[Stream]:
        """The streams that are not left alone now."""
        now, settings = self._monotonic(), self._settings
        paused = {subject for subject, until in self._until.items() if until > now}
        tokens = {a.id for a in settings.accounts.values() if ("token", a.token_name) in paused}
        return [s for s in settings.streams if s not in paused and s.account_id not in tokens]

    # --- notes ------------------------------------------------------------------------------------------------------

    def note_destination(self, name: str, error: AuditLogsError) -> None:
        """Notes that it could not be opened or loaded, and leaves it alone, each time longer."""
        self.counts[name] += 1
        self._in_a_row[name] += 1
        seconds = backoff_seconds(self._in_a_row[name], self._settings.backoff_max_seconds)
        self._until[name] = self._monotonic() + seconds
        self.destinations[name] = error
        log.error("destination.failed", destination=name, error=error, retry_in_seconds=f"{seconds:.0f}")

    def note_loaded(self, name: str) -> None:
        """Notes that a destination was loaded: its next failure is its first."""
        self._in_a_row[name] = 0
        self.destinations.pop(name, None)

    def note_account(
        self, stream: Stream, error: AccountError, took_seconds: float, now: datetime, others: Sequence[Stream] = ()
    ) -> None:
        """Notes that a stream was not read, and leaves it alone for a while; a token that is rate limited, too.

        `others` are streams of that token that waited to be read: each would get the same answer.
        """
        # Not all of those that failed together are to come back together.
        took_seconds *= random.uniform(1, 1.5)  # noqa: S311  # no secret
        seconds = pause_seconds(error, took_seconds, now, self._settings.backoff_max_seconds)
        self._until[stream] = self._monotonic() + seconds
        retry = f"in {seconds:.0f} s"
        is_later = seconds > self._settings.poll_interval_seconds
        self.accounts.note(stream, error, retry if is_later else "next poll")
        if isinstance(error, RateLimitedError):
            token_name = self._settings.account(stream.account_id).token_name
            self._until["token", token_name] = self._until[stream]
            self.accounts.failed.update(dict.fromkeys(others, error))
            if others:
                log.error("token.rate_limited", token=token_name, accounts_waiting=len(others), retry=retry)

    def note_api(self, error: AuditLogsError) -> None:
        """Notes that nothing can be read."""
        self.stopped_by = error
        log.error("poll.abandoned", error=error)

    def note_read(self, streams: Sequence[Stream]) -> None:
        """Notes that the API can be read, and that these streams were read to the end."""
        self.stopped_by = None
        self.accounts.note_read(streams)

    # --- consequences -----------------------------------------------------------------------------------------------

    def log_accounts(self, *, at_once: bool, is_last: bool = False) -> None:
        """Logs failures of accounts, those alike in a line."""
        with aside("account_failures"):
            self.accounts.log(at_once=at_once, is_last=is_last)

    def __bool__(self) -> bool:
        """True if anything failed, refused versions included."""
        return bool(self.accounts.failed or self.destinations or self.stopped_by)

    @property
    def failing(self) -> list[AuditLogsError]:
        """All that failed, but for versions that are refused while the account can be read in another one."""
        stopped_by = [self.stopped_by] if self.stopped_by else []
        return [*self.accounts.failing.values(), *self.destinations.values(), *stopped_by]

    @property
    def exit_code(self) -> int:
        """0 nothing failed, 1 an account failed, 75 try again later."""
        others_loaded = bool(self.accounts.read - self.accounts.failed.keys())
        code = exit_code_of(*self.accounts.failing.values())
        return 1 if code == 1 or (code and others_loaded) else exit_code_of(*self.failing)
