"""The doctor's checks of the API: one question for each account and version, and what follows from the answers."""

import math
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import requests

from pipelines.fetch.api import client_for, utc_now
from pipelines.fetch.refusals import hint_for, refused_versions
from pipelines.host.side_by_side import MOST_AT_ONCE, answers_of
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.budget import REQUESTS, WINDOW_SECONDS
from sources.cloudflare_audit_logs.client import AuditLogsClient, open_session
from sources.cloudflare_audit_logs.errors import (
    AccountError,
    AuditLogsError,
    ClockError,
    RefusedError,
    UnavailableError,
)
from sources.cloudflare_audit_logs.paging import read_window
from sources.cloudflare_audit_logs.streams import Stream, Window

from .finding import Finding, failed, finding_of

API_CHECKS = ("api", "clock", "token", "budget", "account")

LARGEST_OFFSET = timedelta(seconds=30)
"""Between the clocks, without a warning; the loop stops at five minutes."""

FULL_BUDGET = 0.7
"""The share of a token's requests that polls may need; sweeps, comparisons and people need some, too."""

ASKING, VERIFYING = 0.6, 0.3
"""Shares of the time that the API may take: for all events that are asked for, then for all tokens."""

USUAL_SECONDS = 0.5
"""For one answer: so many accounts take longer."""

LONGEST_LIST = 20
"""So many accounts that are well are named one by one."""


class Answer(NamedTuple):
    """The outcome of one question."""

    client: AuditLogsClient | None
    """None: the API does not answer."""
    error: AuditLogsError | None


def check_api(settings: Settings, seconds: float) -> Iterator[Finding]:
    """The findings within so many seconds, or longer for hundreds of accounts; one request for each question."""
    asking = max(ASKING * seconds, USUAL_SECONDS * len(settings.streams) / MOST_AT_ONCE)
    hasty = replace(
        settings, max_retries=0, request_timeout_seconds=min(settings.request_timeout_seconds, ASKING * seconds)
    )
    silence = UnavailableError("the API does not answer", detail=f"no answer in {asking:g} s")
    with open_session() as session:
        ask = partial(_ask, hasty, session)
        answers = answers_of(ask, settings.streams, lambda _: Answer(None, silence), asking)
        errors = [answer.error for answer in answers.values()]
        clock_error = next((error for error in errors if isinstance(error, ClockError)), None)
        if clock_error is None and all(isinstance(error, UnavailableError) for error in errors):
            yield failed("api", errors[0] or silence)
            return
        yield Finding("ok", "api", settings.api_url)
        if clock_error:
            yield failed("clock", clock_error)
            return
        offsets = (one.client.clock_offset for one in answers.values() if one.client)
        yield _clock(next((offset for offset in offsets if offset is not None), None))
        by_token: dict[str, dict[Stream, Answer]] = defaultdict(dict)
        for stream, answer in answers.items():
            by_token[settings.account(stream.account_id).token_name][stream] = answer
        doubt = "the API does not say whether it knows it"
        unverified = {name: Finding("warn", "token", f"{name}: {doubt}") for name in by_token}
        verify = partial(_token, by_token)
        tokens = answers_of(verify, by_token, unverified.__getitem__, VERIFYING * seconds)
    yield from _shortened(list(tokens.values()), "tokens are known to the API")
    budgets = [_budget(name, len(its), settings.poll_interval_seconds) for name, its in by_token.items()]
    yield from _shortened(budgets, "tokens have requests enough for their polls")
    known = [its for name, its in by_token.items() if tokens[name].status != "fail"]
    failures = {stream: answer.error for stream, answer in answers.items() if answer.error}
    refused = refused_versions(failures, answers.keys() - failures.keys())
    accounts = [_account(stream, one.error, is_alone=stream in refused) for its in known for stream, one in its.items()]
    yield from _shortened(accounts, "accounts and versions can be read")


def _ask(settings: Settings, session: requests.Session, stream: Stream) -> Answer:
    """Asks for the newest event of the last hour."""
    account, window = settings.account(stream.account_id), Window(utc_now() - timedelta(hours=1), utc_now())
    client = client_for(settings, account, session, threading.Event(), utc_now)
    try:
        next(read_window(client.get, stream, window, direction="desc", per_page=1, hide_user_logs=False), None)
    except (AccountError, ClockError) as error:
        return Answer(client, error)
    return Answer(client, None)


def _shortened(findings: Sequence[Finding], all_well: str) -> Iterator[Finding]:
    """The findings; those that are well in one line where they are many."""
    well = [finding for finding in findings if finding.status == "ok"]
    if len(well) > LONGEST_LIST:
        yield well[0]._replace(found=f"{len(well):,} {all_well}")
        findings = [finding for finding in findings if finding.status != "ok"]
    yield from findings


def _clock(offset: timedelta | None) -> Finding:
    """The clock of this host against the `Date` of the API's answer."""
    if offset is None:
        return Finding("warn", "clock", "the API sent no Date to compare with")
    found = f"{abs(offset).total_seconds():.0f} s {'ahead of' if offset > timedelta() else 'behind'} the API's"
    if abs(offset) > LARGEST_OFFSET:
        return Finding("warn", "clock", found, "set it (chrony, systemd-timesyncd): at 5 minutes nothing is loaded")
    return Finding("ok", "clock", found)


def _token(by_token: Mapping[str, Mapping[Stream, Answer]], name: str) -> Finding:
    """A token that an account was read with is known; only where all are refused, the API is asked about it."""
    answers = by_token[name]
    stream, answer = next(iter(answers.items()))
    if not all(isinstance(one.error, RefusedError) for one in answers.values()):
        if all(one.error for one in answers.values()):
            return Finding("warn", "token", f"{name}: none of its accounts was read, nor was it refused")
        return Finding("ok", "token", f"{name} is known to the API")

    def look() -> str | Finding:
        if answer.client and not answer.client.knows_token(stream.account_id):
            return Finding("fail", "token", f"{name}: the API does not know this token", f"copy {name} again")
        return f"{name} is known to the API"

    finding = finding_of("token", look)
    return finding if finding.found.startswith(name) else finding._replace(found=f"{name}: {finding.found}")


def _budget(token_name: str, streams: int, interval_seconds: float) -> Finding:
    """The polls of a token's accounts are well within its requests, with room for the sweeps and people."""
    needed = round(streams * WINDOW_SECONDS / max(interval_seconds, 1))
    found = f"{token_name}: {needed:,} requests in 5 minutes to poll {streams:,} accounts and versions, of {REQUESTS:,}"
    if needed > FULL_BUDGET * REQUESTS:
        least = math.ceil(streams * WINDOW_SECONDS / (FULL_BUDGET * REQUESTS))
        hint = f"POLL_INTERVAL_SECONDS={least} or more, or tokens of their own: docs/scale/README.md"
        return Finding("warn", "budget", found, hint)
    return Finding("ok", "budget", found)


def _account(stream: Stream, error: AuditLogsError | None, *, is_alone: bool) -> Finding:
    """An account's events can be read; a version that is refused alone fails nothing."""
    name = f"{stream.account_id} {stream.api_version}"
    if error is None:
        return Finding("ok", "account", f"{name}: can be read")
    finding = failed("account", error)
    if is_alone:
        hint = f"it is left out, nothing else is held up; {hint_for(stream.api_version)}"
        finding = finding._replace(status="warn", hint=hint)
    return finding._replace(found=f"{name}: {finding.found}")
