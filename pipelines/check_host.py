"""The doctor's checks of this host: the settings, the folders that the job writes, and who runs it here."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from sources.cloudflare_audit_logs.errors import AuditLogsError

from . import lake, warehouse
from .file_lock import holder_of
from .finding import Finding, guarded, ok
from .settings import Settings, StoreSettings

PROBE_BYTES = 1_000_000
"""About what an object of the lake has."""
LEAST_FREE_BYTES = 1_000_000_000
"""A day of a large account, in both embedded stores."""


def check_host(settings: Settings) -> Iterator[Finding]:
    """What can be said without asking anyone else."""
    yield _settings(settings)
    yield guarded("disk", lambda: _disk(settings.stores))
    yield _runner(settings.stores)


def _settings(settings: Settings) -> Finding:
    """Names that are no settings are ignored, which is seldom what was meant."""
    if settings.warnings:
        return Finding("warn", "settings", "; ".join(settings.warnings))
    return ok("settings", f"{len(settings.account_ids)} accounts, {','.join(settings.api_versions)}")


def _disk(stores: StoreSettings) -> Finding:
    """The data folder can be written, and has space left."""
    folder = try_out_folder(stores.data_dir / "dlt" / "pipelines")
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:,.1f} GB free for {stores.data_dir}"
    if free < LEAST_FREE_BYTES:
        return Finding("warn", "disk", found, "make room, or set DATA_DIR to another disk")
    return ok("disk", found)


def try_out_folder(folder: Path) -> Path:
    """Writes a file without a name where the folder is, or where it would be made; returns where that was.

    Raises:
        AuditLogsError: it may not be read or written, or has no space.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
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


def _runner(stores: StoreSettings) -> Finding:
    """Nobody, or the loop that is meant to run; a second one is refused by it."""
    folder = stores.data_dir / "dlt" / "pipelines"
    locks = [folder / f"{name}.lock" for name in (warehouse.PIPELINE_NAME, lake.PIPELINE_NAME)]
    if stores.s3 is None:
        locks.append(lake.lock_path(str(stores.data_dir / "lake"), "writer"))
    holders = sorted({holder for lock in locks if (holder := holder_of(lock))})
    found = f"the job runs here: {', '.join(holders)}; a second one would be refused" if holders else "none runs here"
    return ok("runner", found)
