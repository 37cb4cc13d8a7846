"""The API as the settings say: a client for each thread, and windows read page by page, decoded."""

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from sources.cloudflare_audit_logs.answers import Answer
from sources.cloudflare_audit_logs.budget import Budget
from sources.cloudflare_audit_logs.client import AuditLogsClient
from sources.cloudflare_audit_logs.events import Page, decode_page
from sources.cloudflare_audit_logs.paging import read_window
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.traffic import Traffic

from .logs import log
from .reading import FetchPages
from .settings import Settings

Clock = Callable[[], datetime]

LONG_WAIT_SECONDS = 5
"""Whoever waits longer says so."""


class StopRequestedError(Exception):
    """Someone asked us to stop while we waited for the API."""


def utc_now() -> datetime:
    """The clock of all commands."""
    return datetime.now(UTC)


def sleep_until(time: datetime, stop: threading.Event) -> None:
    """Waits, unless `stop` ends it: `StopRequestedError`."""
    if stop.wait(max(0.0, (time - utc_now()).total_seconds())):
        raise StopRequestedError


def client_for(
    settings: Settings,
    stop: threading.Event,
    clock: Clock,
    budget: Budget | None = None,
    traffic: Traffic | None = None,
) -> AuditLogsClient:
    """A connection to the API. A budget makes it wait for its turn; `stop` ends its waiting: `StopRequestedError`."""

    def sleep(seconds: float) -> None:
        if seconds >= LONG_WAIT_SECONDS:
            log.info("api.waiting", seconds=f"{seconds:.0f}")
        if stop.wait(seconds):
            raise StopRequestedError

    return AuditLogsClient(
        settings.api_url,
        settings.api_token,
        clock=clock,
        sleep=sleep,
        timeout_seconds=settings.request_timeout_seconds,
        max_retries=settings.max_retries,
        backoff_seconds=settings.backoff_seconds,
        backoff_max_seconds=settings.backoff_max_seconds,
        budget=budget,
        traffic=traffic,
    )


def page_fetcher(client: AuditLogsClient, settings: Settings, stop: threading.Event, clock: Clock) -> FetchPages:
    """Reads windows page by page, decoded, as the settings say; `stop` ends it between two pages."""

    def get(path: str, params: Mapping[str, str | int]) -> Answer:
        if stop.is_set():
            raise StopRequestedError
        return client.get(path, params)

    def fetch_pages(stream: Stream, window: Window, direction: str) -> Iterator[Page]:
        for slices in read_window(
            get,
            stream,
            window,
            direction=direction,
            per_page=settings.per_page,
            hide_user_logs=settings.hide_user_logs,
        ):
            yield decode_page(slices, stream, clock())

    return fetch_pages
