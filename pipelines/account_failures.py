"""What went wrong with accounts, told in a line for all that met the same: a wrong token is one mistake, not sixty."""

import time
from collections.abc import Callable, Sequence

from sources.cloudflare_audit_logs.errors import AccountError
from sources.cloudflare_audit_logs.streams import Stream

from .logs import log

GATHERING_SECONDS = 2
"""How long a failure waits for others like it."""

MOST_NAMED = 5
"""Accounts in a line; the result, the metrics and /readyz name each."""


class AccountFailures:
    """Gathers failures, and logs them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._untold: dict[tuple[str, str], list[Stream]] = {}
        """By error and retry, in their words."""
        self._since = 0.0

    def note(self, stream: Stream, error: AccountError, retry: str) -> None:
        """Takes one in."""
        if not self._untold:
            self._since = self._monotonic()
        self._untold.setdefault((str(error), retry), []).append(stream)

    def tell(self, *, at_once: bool) -> None:
        """Logs what has waited long enough, or all."""
        if not self._untold or not (at_once or self._monotonic() >= self._since + GATHERING_SECONDS):
            return
        for (error, retry), streams in self._untold.items():
            accounts = _named(list(dict.fromkeys(stream.account_id for stream in streams)))
            versions = ",".join(sorted({stream.api_version for stream in streams}))
            log.error("account.failed", account=accounts, version=versions, error=error, retry=retry)
        self._untold.clear()


def _named(accounts: Sequence[str]) -> str:
    more = f" and {len(accounts) - MOST_NAMED} more" if len(accounts) > MOST_NAMED else ""
    return ",".join(accounts[:MOST_NAMED]) + more
