"""Serves the dashboard until it is stopped, and prints its address. It only reads.

An embedded PostgreSQL that is not running runs as long as this does. Settings (environment or .env):
DASHBOARD_HOST and DASHBOARD_PORT are the two options; DASHBOARD_ALLOWED_HOSTS, DASHBOARD_BASE_PATH and
DASHBOARD_USER_HEADER are for a proxy in front of it; DASHBOARD_GEOIP is a database of countries. See docs/dashboard.md.
"""

import argparse
import os
import socket
import sys
from dataclasses import replace
from typing import Any

from cloudflare_audit import PROGRAM
from pipelines.cli.command import run_lake_command
from pipelines.host.output import protect_streams
from pipelines.settings.dashboard import DEFAULT_PORT, DashboardSettings
from pipelines.settings.settings import UsageError, read_dashboard_settings, read_environment, read_store_settings
from pipelines.warehouse.embedded import server_if_there

from .names import INSTALL


def main() -> int:
    """Serves, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", help="the address to listen at (DASHBOARD_HOST; default: 127.0.0.1)")
    either = f"{DEFAULT_PORT}, or a free one if that is taken"
    parser.add_argument("--port", type=int, help=f"0: a free one (DASHBOARD_PORT; default: {either})")
    options = parser.parse_args()
    protect_streams()
    return run_lake_command(lambda: _serve(options.host, options.port))


def _serve(host: str | None, port: int | None) -> int:
    environment = read_environment()
    stores, settings = read_store_settings(environment), read_dashboard_settings(environment)
    settings = replace(settings, host=host or settings.host, port=settings.port if port is None else port)
    try:
        import jinja2  # noqa: PLC0415, F401  # as above
        import uvicorn  # noqa: PLC0415  # in a dependency group of its own

        from .app import served_app  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        print(f"The dashboard's packages are not installed ({error.name}): {INSTALL}", file=sys.stderr)
        return 1
    with server_if_there(stores), _listening(settings) as listening:
        app = served_app(settings)
        name, number = listening.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        print(f"The dashboard: http://{shown}:{number}{settings.base_path} (Ctrl-C ends it)", flush=True)
        ours: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, **ours)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listening(settings: DashboardSettings) -> socket.socket:
    """Listens; where no port was named, at a free one if the default is taken."""
    is_v6 = ":" in settings.host
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    ports = [DEFAULT_PORT, 0] if settings.port is None else [settings.port]
    for port in ports:
        try:
            return socket.create_server((settings.host.strip("[]"), port), family=family)
        except (OSError, OverflowError) as error:
            if port == ports[-1]:
                where = f"{settings.host}:{port} (DASHBOARD_HOST, DASHBOARD_PORT)"
                raise UsageError(f"cannot listen on {where}: {error}") from error
    raise AssertionError


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a question that is still asked would hold up the end
