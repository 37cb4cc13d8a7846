"""`python pipelines/doctor.py [--json]`: is everything as the loop needs it? One line a check, with a hint where not.

Changes nothing in the stores: an object that it writes in a bucket to see whether it may, it removes again (or leaves
that one, where it may not). Exit codes: 0 nothing fails, 1 something does, 2 the settings are wrong.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from pipelines.checks.all_checks import check_all
from pipelines.cli.command import run_lake_command
from pipelines.settings.settings import read_environment, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="doctor.py", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    return run_lake_command(lambda: examine(as_json=options.json))


def examine(*, as_json: bool) -> int:
    """The command itself."""
    settings = read_settings(read_environment(), now=datetime.now(UTC))
    has_failed = False
    for finding in check_all(settings):
        print(json.dumps(finding._asdict()) if as_json else finding, flush=True)
        has_failed = has_failed or finding.status == "fail"
    return int(has_failed)


if __name__ == "__main__":
    end(main())
