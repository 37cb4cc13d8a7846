"""Runs work beside the events' way: if it fails, that is logged and ends nothing. Only the data path may end a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sources.cloudflare_audit_logs.errors import AuditLogsError

from .logs import log

LOGGED_AGAIN_SECONDS = 600
"""A metric that fails is asked for in each cycle; a line each time would hide all others."""

_logged_at: dict[tuple[str, type[Exception]], float] = {}


@contextmanager
def aside(what: str, monotonic: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Runs a block that no event depends on: an error in it is logged, now and then, and goes no further."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # that is its purpose
        key, now = (what, type(error)), monotonic()
        if now - _logged_at.get(key, -LOGGED_AGAIN_SECONDS) >= LOGGED_AGAIN_SECONDS:
            _logged_at[key] = now
            log.warning(f"{what}.failed", error=words_of(error), hint="no event depends on it; it is tried again")


def words_of(error: BaseException) -> str:
    """The error in one line; an error of another library with its type."""
    text = str(error) if isinstance(error, AuditLogsError) else f"{type(error).__name__}: {error}".removesuffix(": ")
    return " ".join(text.split())[:500]
