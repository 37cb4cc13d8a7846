"""The API as the settings say: each account asked with its token, windows read page by page, decoded."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache

import requests

from pipelines.host.logs import log
from pipelines.settings.accounts import Account
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.answers import Answer
from sources.cloudflare_audit_logs.budget import Budget, Budgets
from sources.cloudflare_audit_logs.client import AuditLogsClient, open_session
from sources.cloudflare_audit_logs.events import Page, decode_page
from sources.cloudflare_audit_logs.paging import read_window
from sources.cloudflare_audit_logs.reach import Reach
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.stretches import read_whole
from sources.cloudflare_audit_logs.traffic import Traffic

Clock = Callable[[], datetime]

LONG_WAIT_SECONDS = 5
"""Longer waits are logged."""

FetchUntil = Callable[..., Iterator[Page]]
"""A `FetchPages` that takes an event as `until`, and raises `StopRequestedError` once it is set."""


class StopRequestedError(Exception):
    """The process was asked to stop while it waited for the API."""


def utc_now() -> datetime:
    """The clock of all commands."""
    return datetime.now(UTC)


def sleep_until(time: datetime, stop: threading.Event) -> None:
    """Waits, unless `stop` ends it: `StopRequestedError`."""
    if stop.wait(max(0.0, (time - utc_now()).total_seconds())):
        raise StopRequestedError


def client_for(
    settings: Settings,
    account: Account,
    session: requests.Session,
    stop: threading.Event,
    clock: Clock,
    *,
    budget: Budget | None = None,
    traffic: Traffic | None = None,
) -> AuditLogsClient:
    """A client with an account's token. A budget makes it wait for its turn; `stop` ends that: `StopRequestedError`."""

    def sleep(seconds: float) -> None:
        if seconds >= LONG_WAIT_SECONDS:
            log.info("api.waiting", seconds=f"{seconds:.0f}", token=account.token_name)
        if stop.wait(seconds):
            raise StopRequestedError

    return AuditLogsClient(
        session,
        settings.api_url,
        account.token,
        clock=clock,
        sleep=sleep,
        timeout_seconds=settings.request_timeout_seconds,
        max_retries=settings.max_retries,
        backoff_seconds=settings.backoff_seconds,
        backoff_max_seconds=settings.backoff_max_seconds,
        budget=budget,
        traffic=traffic or Traffic(),
        token_name=account.token_name,
    )


@contextmanager
def open_api(
    settings: Settings, stop: threading.Event, clock: Clock, budgets: Budgets, traffic: Traffic | None = None
) -> Iterator[FetchUntil]:
    """Windows read page by page, decoded, each account with its token and as its settings say; for several threads.

    `stop` ends reading between two pages, and, where no event of the caller's does, a wait: `StopRequestedError`.
    """

    @cache
    def reach_of(stream: Stream) -> Reach:
        return Reach(settings.account(stream.account_id).per_page)

    with open_session() as session:

        def fetch_pages(
            stream: Stream, window: Window, direction: str, until: threading.Event | None = None
        ) -> Iterator[Page]:
            account, until = settings.account(stream.account_id), until or stop
            budget = budgets.of(account.token_name)
            client = client_for(settings, account, session, until, clock, budget=budget, traffic=traffic)

            def ask(window: Window, direction: str, per_page: int, is_patient: Callable[[], bool]) -> Iterator[Page]:
                def get(path: str, params: Mapping[str, str | int]) -> Answer:
                    if stop.is_set() or until.is_set():
                        raise StopRequestedError
                    return client.get(path, params, is_patient=is_patient())

                hide = account.hide_user_logs
                pages = read_window(get, stream, window, direction=direction, per_page=per_page, hide_user_logs=hide)
                for slices in pages:
                    yield decode_page(slices, stream, clock())

            return read_whole(ask, window, reach_of(stream), direction)

        yield fetch_pages
