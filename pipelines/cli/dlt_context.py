"""Tells dlt where this project keeps things, so that `dlt pipeline NAME info|show` works from the project's root.

Called by the dlt plug-in, `cloudflare_audit/dlt_plugin.py`. Hands the settings of `.env` to dlt as its last
configuration provider: dlt's own names (`DESTINATION__…`, `.dlt/secrets.toml`) are asked before it and win.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlt.common import known_env
from dlt.common.configuration.plugins import hookimpl
from dlt.common.configuration.providers import CustomLoaderDocProvider
from dlt.common.configuration.providers.provider import ConfigProvider
from dlt.common.configuration.specs.pluggable_run_context import RunContextBase
from dlt.common.runtime.run_context import RunContext

from pipelines.settings.settings import PROJECT_ROOT, StoreSettings, read_environment, read_store_settings
from pipelines.warehouse.embedded import running_server

_CONNECTION = {
    # Names this process to one that finds the lock taken.
    "application_name": f"audit-pipeline/{os.getpid()}@{socket.gethostname()}"[:63],
    # A server that vanished must not hold us up for TCP's two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class AuditRunContext(RunContext):
    """dlt's view of this project: run from anywhere, it is at home in the project's root."""

    @property
    def run_dir(self) -> str:
        """Where `.dlt` lies."""
        return os.environ.get(known_env.DLT_PROJECT_DIR, str(PROJECT_ROOT))

    @property
    def data_dir(self) -> str:
        """Where the pipelines' working directories lie: scratch, the destinations hold what counts."""
        data_dir = os.environ.get(known_env.DLT_DATA_DIR)
        return data_dir or str(read_store_settings(read_environment()).data_dir / "dlt")

    def initial_providers(self) -> list[ConfigProvider]:
        """Dlt's own providers, then the settings of this project."""
        # Without a list, the text of dlt's error for a missing value is an error itself.
        own = CustomLoaderDocProvider("settings of this project", _destinations, supports_secrets=True, locations=[])
        return [*super().initial_providers(), own]


@hookimpl(tryfirst=True)
def plug_run_context(run_dir: str | None, runtime_kwargs: dict[str, Any] | None) -> RunContextBase | None:  # noqa: ARG001  # the hook's names
    """Called by dlt when it looks for its context; None leaves a foreign directory to others."""
    is_ours = run_dir is None or Path(run_dir).resolve() == PROJECT_ROOT
    return AuditRunContext(run_dir) if is_ours else None


@hookimpl(specname="plug_cli", tryfirst=True)
def plug_pipeline_command(host: str) -> type[Any] | None:
    """Called by dlt when it collects its commands: ours takes the place of its `pipeline`."""
    if host != "dlt":
        return None
    from .dlt_command import PipelineCommand  # noqa: PLC0415  # the loop needs none of this

    return PipelineCommand


def _destinations() -> dict[str, Any]:
    stores = read_store_settings(read_environment())
    return {
        "destination": dict(_postgres(stores)) | {"filesystem": _filesystem(stores)},
        # The loop says in one line what failed; dlt would print the traceback of every job that is tried again.
        "runtime": {"dlthub_telemetry": False, "log_level": "CRITICAL"},
    }


def _postgres(stores: StoreSettings) -> Iterator[tuple[str, Any]]:
    server = stores.postgres or running_server(stores.postgres_dir)
    if server is None:
        return
    several_ports = {"port": server.ports} if server.ports else {}  # dlt takes one port, libpq one for each host
    credentials = {
        "drivername": "postgresql",
        "host": server.host,
        "database": server.database,
        "username": server.user,
        "password": server.password,
        "port": server.port,
        "query": {"sslmode": server.sslmode, **several_ports, **_CONNECTION},
        "connect_timeout": 5,
    }
    yield "postgres", {"credentials": credentials}


def _filesystem(stores: StoreSettings) -> dict[str, Any]:
    # States kept in the lake: the newest that can be read counts, and all are listed before a load.
    kept = {"bucket_url": stores.lake_url, "max_state_files": 10}
    if stores.s3 is None:
        return kept
    credentials = {
        "aws_access_key_id": stores.s3.access_key,
        "aws_secret_access_key": stores.s3.secret_key,
        "endpoint_url": stores.s3.endpoint,
        "region_name": stores.s3.region,
    }
    return {
        **kept,
        "credentials": {name: value for name, value in credentials.items() if value is not None},
        # s3fs tries 5 times by itself, and the loop for ever; botocore's own 5 times within each take 45 s.
        # (dlt 1.31 drops `config_kwargs` unless they come within `kwargs`.)
        # A GET with the condition that the object is the one that was looked up: not every store knows that, or an ETag
        # in quotes there; s3fs then looks itself.
        "kwargs": {"config_kwargs": {"retries": {"total_max_attempts": 2}}, "local_expiry_check": True},
    }
