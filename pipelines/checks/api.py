"""The doctor's checks of the API: one question for each account and version, and what follows from the answers."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import NamedTuple, TypeVar

import requests

from pipelines.fetch.api import client_for, utc_now
from pipelines.fetch.refusals import hint_for, refused_versions
from pipelines.loop.readers import THREADS
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

from .finding import Finding, failed, ok

LARGEST_OFFSET = timedelta(seconds=30)
"""Of the clocks, with no warning; the loop stops at five minutes."""

FULL_BUDGET = 0.7
"""Of a token's requests: what polls may need of it; sweeps, comparisons and people need some, too."""

ASKING_SECONDS, VERIFYING_SECONDS = 6.0, 3.0
"""For all events that are asked for, then for all tokens: together less than a store may take."""

USUAL_SECONDS = 0.5
"""For one answer: so many accounts take longer."""

LONGEST_LIST = 20
"""So many that are well are named one by one."""


T = TypeVar("T")
Result = TypeVar("Result")


def patience_seconds(settings: Settings) -> float:
    """How long `check_api` may take: ten seconds, and longer for hundreds of accounts alone."""
    return _asking_seconds(settings) + VERIFYING_SECONDS + 1


def _asking_seconds(settings: Settings) -> float:
    return max(ASKING_SECONDS, USUAL_SECONDS * len(settings.streams) / THREADS)


def check_api(settings: Settings) -> Iterator[Finding]:
    """What the API says; with one try each, and no more once it is clear that it cannot say anything."""
    timeout = min(settings.request_timeout_seconds, ASKING_SECONDS)
    hasty = replace(settings, max_retries=0, request_timeout_seconds=timeout)
    with open_session() as session:
        answers = _in_time(partial(_ask, hasty, session), settings.streams, _asking_seconds(settings), _silent)
        errors = [answer.error for answer in answers.values()]
        off = next((error for error in errors if isinstance(error, ClockError)), None)
        if off or all(isinstance(error, UnavailableError) for error in errors):
            yield failed("clock" if off else "api", off or errors[0] or UnavailableError("no answer"))
            return
        yield ok("api", settings.api_url)
        clocks = (answer.client.clock_offset for answer in answers.values() if answer.client)
        yield _clock(next(filter(None, clocks), None))
        by_token: dict[str, dict[Stream, Answer]] = {}
        for stream, answer in answers.items():
            by_token.setdefault(settings.account(stream.account_id).token_name, {})[stream] = answer
        tokens = _in_time(lambda name: _token(name, by_token[name]), list(by_token), VERIFYING_SECONDS, _unverified)
    yield from _shortened(list(tokens.values()), "tokens are known to the API")
    budgets = [_budget(name, len(its), settings.poll_interval_seconds) for name, its in by_token.items()]
    yield from _shortened(budgets, "tokens have requests enough for their polls")
    known = [its for name, its in by_token.items() if tokens[name].status != "fail"]
    refused = _refused(answers)
    accounts = [_account(s, answer.error, is_alone=s in refused) for its in known for s, answer in its.items()]
    yield from _shortened(accounts, "accounts and versions can be read")


class Answer(NamedTuple):
    """What became of a question."""

    client: AuditLogsClient | None
    """None: it does not answer."""
    error: AuditLogsError | None


def _in_time(
    ask: Callable[[T], Result], subjects: Sequence[T], seconds: float, otherwise: Callable[[T], Result]
) -> dict[T, Result]:
    """What each is answered, all asked at once; an answer that trickles is not waited for."""
    pool = ThreadPoolExecutor(THREADS)
    futures = {subject: pool.submit(ask, subject) for subject in subjects}
    wait(futures.values(), seconds)
    pool.shutdown(wait=False, cancel_futures=True)
    return {
        subject: future.result() if future.done() and not future.cancelled() else otherwise(subject)
        for subject, future in futures.items()
    }


def _silent(_: Stream) -> Answer:
    return Answer(None, UnavailableError("the API does not answer", detail=f"no answer in {ASKING_SECONDS:g} s"))


def _unverified(name: str) -> Finding:
    return Finding("warn", "token", f"{name}: the API does not say whether it knows it")


def _ask(settings: Settings, session: requests.Session, stream: Stream) -> Answer:
    """The newest event of the last hour is asked for."""
    account, window = settings.account(stream.account_id), Window(utc_now() - timedelta(hours=1), utc_now())
    client = client_for(settings, account, session, threading.Event(), utc_now)
    try:
        next(read_window(client.get, stream, window, direction="desc", per_page=1, hide_user_logs=False), None)
    except (AccountError, ClockError) as error:
        return Answer(client, error)
    return Answer(client, None)


def _shortened(findings: Sequence[Finding], all_well: str) -> Iterator[Finding]:
    """Those that are well in one line where they are many."""
    well = [finding for finding in findings if finding.status == "ok"]
    if len(well) > LONGEST_LIST:
        yield ok(well[0].check, f"{len(well):,} {all_well}")
        findings = [finding for finding in findings if finding.status != "ok"]
    yield from findings


def _budget(token_name: str, streams: int, interval_seconds: float) -> Finding:
    """True if the polls of a token's accounts are well within what it may ask, with room for the sweeps and people."""
    needed = round(streams * WINDOW_SECONDS / max(interval_seconds, 1))
    found = f"{token_name}: {needed:,} requests in 5 minutes to poll {streams:,} accounts and versions, of {REQUESTS:,}"
    if needed > FULL_BUDGET * REQUESTS:
        least = math.ceil(streams * WINDOW_SECONDS / (FULL_BUDGET * REQUESTS))
        hint = f"POLL_INTERVAL_SECONDS={least} or more, or tokens of their own: docs/scale.md"
        return Finding("warn", "budget", found, hint)
    return ok("budget", found)


def _clock(offset: timedelta | None) -> Finding:
    """That of this host, against the `Date` of the API's answer."""
    if offset is None:
        return Finding("warn", "clock", "the API sent no Date to compare with")
    found = f"{abs(offset).total_seconds():.0f} s {'ahead of' if offset > timedelta() else 'behind'} the API's"
    if abs(offset) > LARGEST_OFFSET:
        return Finding("warn", "clock", found, "set it (chrony, systemd-timesyncd): at 5 minutes nothing is loaded")
    return ok("clock", found)


def _token(name: str, answers: Mapping[Stream, Answer]) -> Finding:
    """True if it is a token at all; where an account was read it is, and only a refusal is a reason to ask."""
    stream, answer = next(iter(answers.items()))
    if not all(isinstance(answer.error, RefusedError) for answer in answers.values()):
        if all(answer.error for answer in answers.values()):
            return Finding("warn", "token", f"{name}: none of its accounts was read, nor was it refused")
        return ok("token", f"{name} is known to the API")
    try:
        if answer.client and not answer.client.knows_token(stream.account_id):
            return Finding("fail", "token", f"{name}: the API does not know this token", f"copy {name} again")
    except AuditLogsError as error:
        finding = failed("token", error)
        return finding._replace(found=f"{name}: {finding.found}")
    return ok("token", f"{name} is known to the API")


def _refused(answers: Mapping[Stream, Answer]) -> dict[Stream, AuditLogsError]:
    """The versions that are refused, of accounts that can be read in another one."""
    failures = {stream: answer.error for stream, answer in answers.items() if answer.error}
    return refused_versions(failures, answers.keys() - failures.keys())


def _account(stream: Stream, error: AuditLogsError | None, *, is_alone: bool) -> Finding:
    """True if its events can be read; a version that is refused alone fails nothing."""
    name = f"{stream.account_id} {stream.api_version}"
    if error is None:
        return ok("account", f"{name}: can be read")
    finding = failed("account", error)
    if is_alone:
        hint = f"it is left out, nothing else is held up; {hint_for(stream.api_version)}"
        finding = finding._replace(status="warn", hint=hint)
    return finding._replace(found=f"{name}: {finding.found}")
