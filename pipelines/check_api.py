"""The doctor's checks of the API: one question for each account and version, and what follows from the answers."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

from sources.cloudflare_audit_logs.client import AuditLogsClient
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, ClockError, UnavailableError
from sources.cloudflare_audit_logs.paging import read_window
from sources.cloudflare_audit_logs.streams import Stream, Window

from .api import client_for, utc_now
from .finding import Finding, failed, guarded, ok
from .settings import Settings

LARGEST_OFFSET = timedelta(seconds=30)
"""Of the clocks, with no warning; the loop stops at five minutes."""


def check_api(settings: Settings) -> Iterator[Finding]:
    """What the API says; without retries, and no more once it is clear that it cannot say anything."""
    with client_for(replace(settings, max_retries=0), threading.Event(), utc_now) as client:
        answers: dict[Stream, AuditLogsError | None] = {}
        for stream in settings.streams:
            answers[stream] = error = _ask(client, stream)
            if isinstance(error, ClockError | UnavailableError):
                yield failed("clock" if isinstance(error, ClockError) else "api", error)
                return
        yield ok("api", settings.api_url)
        yield _clock(client.clock_offset)
        token = guarded("token", lambda: _token(client, answers))
        yield token
        if token.status != "fail":
            yield from (_account(stream, error) for stream, error in answers.items())


def _ask(client: AuditLogsClient, stream: Stream) -> AuditLogsError | None:
    """The newest event of the last hour is asked for; what went wrong, or None."""
    window = Window(utc_now() - timedelta(hours=1), utc_now())
    try:
        next(read_window(client.get, stream, window, direction="desc", per_page=1, hide_user_logs=False), None)
    except (AccountError, ClockError) as error:
        return error
    return None


def _clock(offset: timedelta | None) -> Finding:
    """That of this host, against the `Date` of the API's answer."""
    if offset is None:
        return Finding("warn", "clock", "the API sent no Date to compare with")
    found = f"{abs(offset).total_seconds():.0f} s {'ahead of' if offset > timedelta() else 'behind'} the API's"
    if abs(offset) > LARGEST_OFFSET:
        return Finding("warn", "clock", found, "set it (chrony, systemd-timesyncd): at 5 minutes nothing is loaded")
    return ok("clock", found)


def _token(client: AuditLogsClient, answers: Mapping[Stream, AuditLogsError | None]) -> Finding:
    """Whether it is a token at all; where an account was read, it is."""
    if None not in answers.values() and not client.knows_token(next(iter(answers)).account_id):
        return Finding("fail", "token", "the API does not know this token", "copy CLOUDFLARE_API_TOKEN again")
    return ok("token", "known to the API")


def _account(stream: Stream, error: AuditLogsError | None) -> Finding:
    """Whether its events can be read."""
    name = f"{stream.account_id} {stream.api_version}"
    if error is None:
        return ok("account", f"{name}: can be read")
    finding = failed("account", error)
    return finding._replace(found=f"{name}: {finding.found}")
