"""`dlt pipeline NAME show` in one step: dlt's own dashboard, on the settings of `.env`.

dlt 1.31 opens it only where its commercial package is installed, although the dashboard is a part of dlt itself (Apache
2.0) and needs nothing of that. It also looks for `marimo` on the PATH alone, and knows no embedded PostgreSQL.
"""

import argparse
import signal
import subprocess
import sys

from dlt._workspace.cli.commands import PipelineCommand as DltPipelineCommand

from pipelines.settings.settings import read_environment, read_store_settings
from pipelines.warehouse.embedded import server_if_there

_MARIMO = (
    "from marimo._cli import cli; cli.choose_startup_tip = lambda _: None;"  # which advertises its maker's products
    "from dashboard.dlt_dashboard import run; run()"
)


class PipelineCommand(DltPipelineCommand):
    """dlt's command; `show` alone is ours."""

    def execute(self, args: argparse.Namespace) -> None:
        """Runs the dashboard until it is stopped, and an embedded PostgreSQL that is there for as long."""
        if args.operation != "show":
            super().execute(args)
            return
        try:
            from dlt._workspace.helpers.dashboard.runner import run_dashboard_command  # noqa: PLC0415  # needs its packages
        except ImportError as error:
            sys.exit(f"{error}\nmake show PIPELINE={args.pipeline_name} installs them, and opens it")
        _, *arguments = run_dashboard_command(args.pipeline_name, args.edit, args.pipelines_dir)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: marimo is to end with us
        with server_if_there(read_store_settings(read_environment())):
            try:
                subprocess.run([sys.executable, "-c", _MARIMO, *arguments], check=False)  # noqa: S603  # ours, and dlt's own page
            except KeyboardInterrupt:
                return
