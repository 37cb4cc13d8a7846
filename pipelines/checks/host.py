"""The doctor's checks of this host: the settings, the folders that the job writes, and who runs it here."""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryFile

from pipelines.host.file_lock import holder_of
from pipelines.lake.dlt_client import PIPELINE_NAME as LAKE_PIPELINE
from pipelines.lake.objects import lock_path
from pipelines.settings.settings import Settings, StoreSettings
from pipelines.settings.shards import sibling_pattern
from pipelines.warehouse import states as warehouse_states
from pipelines.watch.health_server import address_of
from pipelines.watch.metrics import PROGRAM
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .finding import Finding, Result, finding_of

PROBE_BYTES = 1_000_000
"""About the size of an object of the lake."""
ANSWER_SECONDS = 5
LEAST_FREE_BYTES = 1_000_000_000
"""Room for a day of a large account, in both embedded stores."""


def check_host(settings: Settings) -> Iterator[Finding]:
    """The findings for which nobody else need be asked."""
    yield _settings(settings)
    yield finding_of("disk", lambda: _disk(settings.stores))
    holders = _holders(settings.stores)
    found = f"the job runs here: {', '.join(holders)}; a second one would be refused" if holders else "none runs here"
    yield Finding("ok", "runner", found)
    if settings.metrics_port:
        yield _port(settings.metrics_host, settings.metrics_port, is_job_here=bool(holders))


def _settings(settings: Settings) -> Finding:
    """Names that are no settings are ignored, which is seldom what was meant; secrets are for their owner alone."""
    if settings.warnings:
        return Finding("warn", "settings", "; ".join(settings.warnings))
    versions = ",".join(sorted({stream.api_version for stream in settings.streams}))
    return Finding("ok", "settings", f"{len(settings.account_ids)} accounts, {versions}")


def _disk(stores: StoreSettings) -> Result:
    """The data folder can be written, and has space left."""
    places = [try_out_folder(stores.data_dir / name) for name in ("sweeps", "dlt/spool", "dlt/pipelines")]
    free = shutil.disk_usage(places[-1]).free
    found = f"{free / 1e9:,.1f} GB free for {stores.data_dir}"
    if free < LEAST_FREE_BYTES:
        return Finding("warn", "disk", found, "make room, or set DATA_DIR to another disk")
    return found


def try_out_folder(folder: Path) -> Path:
    """Writes a file without a name where the folder is, or where it would be made; returns where that was."""
    there = nearest(folder)
    try:
        next(there.iterdir(), None)
        with TemporaryFile(dir=there) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        hint = "check its rights and space, or set DATA_DIR"
        raise AuditLogsError(f"{there} cannot be used", detail=error.strerror or str(error), hint=hint) from error
    return there


def nearest(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _holders(stores: StoreSettings) -> list[str]:
    """The holders of the locks on this host."""
    is_loop = re.compile(sibling_pattern(warehouse_states.PIPELINE_NAME, LAKE_PIPELINE))
    locks = [lock for lock in (stores.data_dir / "dlt" / "pipelines").glob("*.lock") if is_loop.match(lock.stem)]
    if stores.s3 is None:
        locks += stores.data_dir.glob(lock_path(Path("lake"), "writer*").name)
    return sorted({holder for lock in locks if (holder := holder_of(lock))})


def _port(host: str, port: int, *, is_job_here: bool) -> Finding:
    """The port is free for the loop's metrics, or the running loop's already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if is_job_here and _is_ours(host, port):
            return Finding("ok", "port", f"{port} is in use, as it should be by the job that runs")
        found = f"cannot listen on {address_of(host, port)} (METRICS_HOST, METRICS_PORT): {error.strerror or error}"
        hint = "set METRICS_PORT to a free port, METRICS_HOST to an address of this host"
        return Finding("fail", "port", found, hint)
    return Finding("ok", "port", f"{address_of(host, port)} is free for the metrics")


def _is_ours(host: str, port: int) -> bool:
    """True if a loop of ours answers there."""
    with closing(HTTPConnection(host, port, timeout=ANSWER_SECONDS)) as connection:
        try:
            connection.request("GET", "/livez")
            return PROGRAM in (connection.getresponse().getheader("Server") or "")
        except (OSError, HTTPException):
            return False
