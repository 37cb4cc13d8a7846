"""Checks what the loop needs, of API, warehouse, lake and host: a line for each check, with what to do.

Changes nothing in the stores: an object that it writes in a bucket to see whether it may, it removes again (or leaves
that one, where it may not).

Examples:
  cloudflare-audit doctor
  cloudflare-audit doctor --json --patience 30

Exit codes: 0 nothing fails, 1 something does, 2 wrong usage or settings.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from pipelines.checks.all_checks import check_all
from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_lake_command
from pipelines.host.output import say
from pipelines.host.side_by_side import PATIENCE_SECONDS
from pipelines.settings.settings import read_environment, read_settings


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("doctor", __doc__)
    add_json_option(options, "one JSON object a line")
    options.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help=f"how long API, warehouse and lake may each take to answer; default: {PATIENCE_SECONDS}",
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks, and returns the exit code."""
    options = parser().parse_args(arguments)
    return run_lake_command(lambda: _examine(options.patience, as_json=options.json))


def _examine(seconds: float, *, as_json: bool) -> int:
    settings = read_settings(read_environment(), now=datetime.now(UTC))
    has_failed = False
    for finding in check_all(settings, seconds):
        say(json.dumps(finding._asdict()) if as_json else finding)
        has_failed = has_failed or finding.status == "fail"
    return int(has_failed)


if __name__ == "__main__":
    end(main())
