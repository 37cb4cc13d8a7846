"""The API as the settings say: each account asked with its token, windows read page by page, decoded."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Protocol

from pipelines.host.logs import log
from pipelines.settings.accounts import Account
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.answers import Answer
from sources.cloudflare_audit_logs.budget import Budget, Budgets
from sources.cloudflare_audit_logs.client import AuditLogsClient
from sources.cloudflare_audit_logs.connections import Connections
from sources.cloudflare_audit_logs.events import Page, decode_page
from sources.cloudflare_audit_logs.paging import read_window
from sources.cloudflare_audit_logs.reach import Reach
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.stretches import read_whole
from sources.cloudflare_audit_logs.traffic import Traffic

Clock = Callable[[], datetime]

LONG_WAIT_SECONDS = 5
"""Whoever waits longer says so."""


class StopRequestedError(Exception):
    """Someone asked us to stop while we waited for the API."""


class FetchUntil(Protocol):
    """A `FetchPages` that is ended by the event of whoever reads as well."""

    def __call__(
        self, stream: Stream, window: Window, direction: str, until: threading.Event | None = None
    ) -> Iterator[Page]:
        """Reads a window page by page; `StopRequestedError` when the event is set."""


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
    stop: threading.Event,
    clock: Clock,
    *,
    budget: Budget | None = None,
    traffic: Traffic | None = None,
    connections: Connections | None = None,
) -> AuditLogsClient:
    """Asks with an account's token. A budget makes it wait for its turn; `stop` ends that: `StopRequestedError`."""

    def sleep(seconds: float) -> None:
        if seconds >= LONG_WAIT_SECONDS:
            log.info("api.waiting", seconds=f"{seconds:.0f}", token=account.token_name)
        if stop.wait(seconds):
            raise StopRequestedError

    return AuditLogsClient(
        settings.api_url,
        account.token,
        clock=clock,
        sleep=sleep,
        timeout_seconds=settings.request_timeout_seconds,
        max_retries=settings.max_retries,
        backoff_seconds=settings.backoff_seconds,
        backoff_max_seconds=settings.backoff_max_seconds,
        budget=budget,
        traffic=traffic,
        connections=connections,
        token_name=account.token_name,
    )


@contextmanager
def open_api(
    settings: Settings, stop: threading.Event, clock: Clock, budgets: Budgets, traffic: Traffic | None = None
) -> Iterator[FetchUntil]:
    """Windows read page by page, decoded, each account with its token and as its settings say; for several threads.

    `stop` ends it between two pages, and, for those who gave no event of their own, while it waits:
    `StopRequestedError`.
    """
    connections = Connections()

    @cache
    def reach_of(stream: Stream) -> Reach:
        return Reach(settings.account(stream.account_id).per_page)

    def fetch_pages(
        stream: Stream, window: Window, direction: str, until: threading.Event | None = None
    ) -> Iterator[Page]:
        account, until = settings.account(stream.account_id), until or stop
        budget = budgets.of(account.token_name)
        client = client_for(settings, account, until, clock, budget=budget, traffic=traffic, connections=connections)

        def ask(window: Window, direction: str, per_page: int, is_patient: Callable[[], bool]) -> Iterator[Page]:
            def get(path: str, params: Mapping[str, str | int]) -> Answer:
                if stop.is_set() or until.is_set():
                    raise StopRequestedError
                return client.get(path, params, is_patient=is_patient())

            hide = account.hide_user_logs
            for slices in read_window(get, stream, window, direction=direction, per_page=per_page, hide_user_logs=hide):
                yield decode_page(slices, stream, clock())

        return read_whole(ask, window, reach_of(stream), direction)

    try:
        yield fetch_pages
    finally:
        connections.close()
