"""All of the doctor's checks, in the order of the way of an event: this host, the API, the warehouse, the lake."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial

from pipelines.host.side_by_side import Asked, SilentError
from pipelines.settings.settings import Settings
from pipelines.warehouse.embedded import server_if_there
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .api import check_api, patience_seconds
from .finding import Finding, failed
from .host import check_host
from .lake import check_lake
from .warehouse import check_warehouse


def check_all(settings: Settings) -> Iterator[Finding]:
    """Each finding as soon as it is there; one that failed ends nothing but what depends on it."""
    host = list(check_host(settings))
    yield from host
    with ExitStack() as stack:
        # Before all others: dlt reads its configuration once, with the port of an embedded server in it.
        server = _failure_of(lambda: stack.enter_context(server_if_there(settings.stores)))
        asked = {"api": Asked(partial(check_api, settings), patience_seconds(settings))}
        asked["warehouse"] = Asked(partial(_warehouse, settings, server))
        if settings.stores.s3 is not None or not _has_failed(host):
            asked["lake"] = Asked(partial(check_lake, settings))
        for name, its in asked.items():
            try:
                yield from its.answers()
            except SilentError as error:
                yield failed(name, error)


def _warehouse(settings: Settings, server: list[Finding]) -> Iterable[Finding]:
    if server:
        yield from server
        return
    with ExitStack() as stack:
        yield from check_warehouse(settings, stack)


def _failure_of(start: Callable[[], object]) -> list[Finding]:
    """Nothing, or why the embedded server does not start."""
    try:
        start()
    except (AuditLogsError, OSError) as error:
        return [failed("warehouse", error)]
    return []


def _has_failed(findings: list[Finding]) -> bool:
    return any(finding.status == "fail" for finding in findings)
