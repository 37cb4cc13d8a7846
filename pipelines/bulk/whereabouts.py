"""Where a process reads and writes, in words without secrets, so that two of them can be compared."""

import socket
from hashlib import sha256

from pipelines.lake.destination import Lake
from pipelines.load.store import client_of
from pipelines.settings.settings import Settings
from pipelines.warehouse.destination import Warehouse


def whereabouts(settings: Settings, *, asks_api: bool) -> dict[str, str]:
    """What has to be the same for all who work on one command, by name; as dlt resolves it, whose own names win.

    Raises:
        AuditLogsError: there are no credentials for a store.
    """
    stores = settings.stores
    found = {"lake": _lake(), "warehouse": f"embedded PostgreSQL in {stores.postgres_dir}"}
    if stores.postgres is not None:
        found["warehouse"] = _warehouse(settings)
    found["warehouse"] += f", schema {stores.postgres_schema}"
    found["TIMESCALE_RETENTION_DAYS"] = str(stores.timescale.retention_days)
    if asks_api:
        found["API"] = settings.api_url
        found["accounts, versions and what is hidden of them"] = _accounts(settings)
    if stores.postgres is None or found["lake"].startswith("file:"):
        found["host, which a folder or an embedded PostgreSQL asks to be one"] = socket.gethostname()
    return found


def _accounts(settings: Settings) -> str:
    """How many, and a digest of how they are read."""
    all_of_them = sorted((a.id, a.api_versions, a.hide_user_logs) for a in settings.accounts.values())
    return f"{len(all_of_them)} ({sha256(repr(all_of_them).encode()).hexdigest()[:8]})"


def _lake() -> str:
    config = client_of(Lake()).config
    endpoint = getattr(config.credentials, "endpoint_url", None)
    return f"{config.bucket_url} at {endpoint}" if endpoint else str(config.bucket_url)


def _warehouse(settings: Settings) -> str:
    credentials = client_of(Warehouse.of(settings.stores)).config.credentials
    return f"{credentials.host}:{credentials.port}/{credentials.database}"
