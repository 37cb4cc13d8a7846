"""What a check found, in a line. Checks nothing itself."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from sources.cloudflare_audit_logs.errors import AuditLogsError


class Finding(NamedTuple):
    """A line of the doctor's: `fail` is what the loop does not work with, `warn` what somebody should look at."""

    status: Literal["ok", "warn", "fail"]
    check: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.check:<11}  {self.found}" + (f" ({self.hint})" if self.hint else "")


def ok(check: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding("ok", check, found)


def failed(check: str, error: Exception) -> Finding:
    """What an error says; the same words as the loop's."""
    if not isinstance(error, AuditLogsError):
        return Finding("fail", check, str(error))
    return Finding("fail", check, f"{error.message}: {error.detail}" if error.detail else error.message, error.hint)


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """What a check found; an error that it raises is what it found, too."""
    try:
        return look()
    except (AuditLogsError, OSError) as error:
        return failed(check, error)
