"""All of the doctor's checks, in the order of the way of an event: this host, the API, the warehouse, the lake."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from pipelines.host.side_by_side import PATIENCE_SECONDS, Asked
from pipelines.settings.settings import Settings
from pipelines.warehouse.embedded import server_if_there
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .api import API_CHECKS, check_api
from .finding import Finding, complete, failed
from .host import check_host
from .lake import check_lake
from .warehouse import WAREHOUSE_CHECKS, check_warehouse


def check_all(settings: Settings, seconds: float = PATIENCE_SECONDS) -> Iterator[Finding]:
    """Each finding as soon as it is there, at least one of every check; one that fails ends only what depends on it.

    API, warehouse and lake are asked side by side; each may take so many seconds.
    """
    host = list(check_host(settings))
    yield from host
    unfit = [finding.check for finding in host if finding.status == "fail"] if settings.stores.s3 is None else []
    with ExitStack() as stack:
        try:
            # Before all others: dlt reads its configuration once, with the port of an embedded server in it.
            stack.enter_context(server_if_there(settings.stores))
        except (AuditLogsError, OSError) as error:
            warehouse = Asked(partial(iter, [failed("warehouse", error)]), seconds)
        else:
            warehouse = Asked(partial(check_warehouse, settings), seconds)
        lake = Asked(partial(check_lake, settings), seconds) if not unfit else None
        yield from complete(API_CHECKS, check_api(settings, seconds))  # which waits for no answer longer by itself
        yield from complete(WAREHOUSE_CHECKS, warehouse.answers())
        lake_checks = ["lake", "conditions", "seals"] if settings.stores.s3 else ["lake", "seals"]
        yield from complete(lake_checks, lake.answers() if lake else [], unfit)
