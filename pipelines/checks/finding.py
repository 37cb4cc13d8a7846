"""The finding of a check, in a line. Checks nothing itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from pipelines.fetch.refusals import words_of
from pipelines.host.side_by_side import SilentError
from pipelines.host.transient import HINT_OF_SYSTEM, words_of_system
from sources.cloudflare_audit_logs.errors import AuditLogsError


class Finding(NamedTuple):
    """A line of the doctor's: with `fail` the loop does not work, at `warn` somebody should look."""

    status: Literal["ok", "warn", "fail"]
    check: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.check:<11}  {self.found}" + (f" ({self.hint})" if self.hint else "")


Result = str | Finding
"""A check's: a text where all is well."""


def failed(check: str, error: Exception) -> Finding:
    """An error as a finding, in the same words as the loop's."""
    if isinstance(error, OSError):
        return Finding("fail", check, words_of_system(error), HINT_OF_SYSTEM)
    if not isinstance(error, AuditLogsError):
        return Finding("fail", check, str(error))
    return Finding("fail", check, words_of(error), error.hint)


def skipped(check: str, failures: Iterable[str]) -> Finding:
    """A check that others failed before."""
    return Finding("warn", check, f"not checked, because {', '.join(failures)} failed")


def finding_of(check: str, look: Callable[[], Result]) -> Finding:
    """The finding of a check; an error that it raises is one, too."""
    try:
        found = look()
    except (AuditLogsError, OSError) as error:
        return failed(check, error)
    return found if isinstance(found, Finding) else Finding("ok", check, found)


def complete(checks: Sequence[str], findings: Iterable[Finding], failures: Iterable[str] = ()) -> Iterator[Finding]:
    """The findings as they come, then one for each of the checks that has none: no check is left out in silence.

    If the findings stop coming, the first check without one has failed; the others could not be looked at.
    """
    left, failures = list(checks), list(failures)
    try:
        for finding in findings:
            left = [check for check in left if check != finding.check]
            failures += [finding.check] * (finding.status == "fail" and finding.check not in failures)
            yield finding
    except SilentError as error:
        failures = [*left, *checks][:1]
        left = left[1:]
        yield failed(failures[0], error)
    yield from (skipped(check, failures) for check in left if failures)
