"""`python -m dashboard [--port N]`: serves the dashboard on loopback until it is stopped, and prints its address.

An embedded PostgreSQL that is not running runs as long as this does. Nothing is written to either store.
"""

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import Any

from pipelines.cli.command import run_lake_command
from pipelines.host.output import protect_streams
from pipelines.settings.settings import read_environment, read_store_settings
from pipelines.warehouse.embedded import server_if_there

APP = Path(__file__).with_name("app.py")
PORT = 2719
_LOOPBACK = "127.0.0.1"


def main() -> int:
    """Serves, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboard", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}, or a free one if that is taken")
    options = parser.parse_args()
    protect_streams()
    return run_lake_command(lambda: _serve(options.port))


def _serve(port: int) -> int:
    try:
        import uvicorn  # noqa: PLC0415  # in a dependency group of its own

        app = served_app()
    except ModuleNotFoundError as error:
        print(f"The dashboard's packages are not installed ({error.name}): run make dashboard", file=sys.stderr)
        return 1
    stores = read_store_settings(read_environment())
    with server_if_there(stores), _listening(port) as listening:
        print(f"The dashboard: http://{_LOOPBACK}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def served_app() -> Any:
    """The ASGI app: marimo in run mode, which takes no code from the page and does not show ours."""
    import marimo  # noqa: PLC0415  # as above

    from .guard import only_own_pages  # noqa: PLC0415

    return only_own_pages(marimo.create_asgi_app(quiet=True).with_app(path="/", root=str(APP)).build())


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOOPBACK, port))
    except OSError:
        return socket.create_server((_LOOPBACK, 0))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the threads of open pages would hold up the end for two minutes
