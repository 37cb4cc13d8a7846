"""All of the doctor's checks, in the order of the way of an event: this host, the API, the warehouse, the lake."""

from collections.abc import Iterator
from contextlib import ExitStack

from .check_api import check_api
from .check_host import check_host
from .check_lake import check_lake
from .check_warehouse import check_warehouse
from .finding import Finding
from .settings import Settings


def check_all(settings: Settings) -> Iterator[Finding]:
    """Each finding as soon as it is there; one that failed ends nothing but what depends on it."""
    host = list(check_host(settings))
    yield from host
    yield from check_api(settings)
    with ExitStack() as stack:
        # Before the lake: dlt reads its configuration once, with the port of an embedded server in it.
        yield from check_warehouse(settings, stack)
        if settings.stores.s3 is not None or not _has_failed(host):
            yield from check_lake(settings)


def _has_failed(findings: list[Finding]) -> bool:
    return any(finding.status == "fail" for finding in findings)
