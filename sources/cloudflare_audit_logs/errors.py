"""The errors between the API and the stores: what failed, why, and what the operator does about it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

TooMuch = Literal["", "page", "window"]
"""May have been too much for the API to answer: nothing, the page, or the window (its length, depth or page)."""


class AuditLogsError(Exception):
    """A failure that is reported to the operator in one line: what failed, the cause, the hint."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.detail, self.hint = message, detail, hint

    def __str__(self) -> str:
        cause = f": {self.detail}" if self.detail else ""
        return f"{self.message}{cause}" + (f" ({self.hint})" if self.hint else "")


class TemporaryError(AuditLogsError):
    """Passes by itself: trying again later is all there is to do (exit 75)."""


class BrokenObjectError(AuditLogsError):
    """One object of the lake cannot be read as ours. The others go on."""


class AccountError(AuditLogsError):
    """One account could not be read. The others go on. `too_much` says whether asking for less may be answered."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "", too_much: TooMuch = "") -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.too_much = too_much


class RefusedError(AccountError):
    """The API refuses the account (400, 401, 403, 404): an operator has to act. Tried again at a slow pace."""


class RefusedRequestError(RefusedError):
    """The API refuses the request, of whatever account (a parameter that it does not take, say)."""


class UnknownPathError(RefusedError):
    """404: there is no such account, or the address is not the API's."""


class BadAnswerError(AccountError):
    """The API answered, but not with events: HTML, a cut body, `success:false`, a repeated page or page cursor."""


class HiddenEventsError(AccountError):
    """The window was read as far as the API shows it, but at these instants it holds more than the API shows."""

    def __init__(self, instants: Sequence[datetime]) -> None:
        super().__init__(
            "the API holds more events of one instant than it shows",
            detail=", ".join(instant.isoformat() for instant in instants),
            hint="the events that it shows are loaded; no request can reach the others: ask Cloudflare for them",
        )
        self.instants = list(instants)


class UnavailableError(AccountError, TemporaryError):
    """The API cannot be reached or answers 5xx, after all retries."""


class RateLimitedError(AccountError, TemporaryError):
    """HTTP 429. `until` is the earliest time, by this host's clock, at which asking again makes sense."""

    def __init__(self, message: str, *, until: datetime, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.until = until


class ClockError(TemporaryError):
    """The clock of this host is too far off the API's: windows would be wrong, so nothing is loaded."""
