"""Shows where both stores stand, what is late, missing or quarantined, and how large they are.

Changes nothing, and costs the last days, not the history. A store that is down says so, and the other is shown.

Examples:
  cloudflare-audit status
  cloudflare-audit status --json | jq .warehouse.gaps

Exit codes: 0 done, 1 a store has no tables yet or cannot be read, 2 the settings are wrong, 75 a store is down.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from shutil import get_terminal_size

from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_lake_command
from pipelines.cli.status_report import status_of
from pipelines.cli.status_text import status_text
from pipelines.host.output import say
from pipelines.host.transient import exit_code_of
from pipelines.settings.settings import read_environment, read_settings


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("status", __doc__)
    add_json_option(options, "the same as JSON")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows how things stand, and returns the exit code."""
    options = parser().parse_args(arguments)
    return run_lake_command(lambda: _show(as_json=options.json))


def _show(*, as_json: bool) -> int:
    now, width = datetime.now(UTC), get_terminal_size().columns if sys.stdout.isatty() else None
    status, errors = status_of(read_settings(read_environment(), now=now, asks_api=False), now)
    say(json.dumps(status) if as_json else status_text(status, width))
    return max(map(exit_code_of, errors), default=0)


if __name__ == "__main__":
    end(main())
