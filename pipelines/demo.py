"""Runs the main job on a simulated Cloudflare, proves what it loaded, and shows an incident.

Everything is real but the API: the loop is `run` in a process of its own, with the embedded PostgreSQL and a folder
lake under `data/demo`, which is emptied first. Your `.env` and your data are not touched.

Examples:
  cloudflare-audit demo
  cloudflare-audit demo --seconds 60

Exit codes: 0 done and proven, 1 failed, 2 wrong usage, 3 a gap was found, 75 try again later, 130 ended by Ctrl-C.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
from collections.abc import Sequence
from functools import partial

from pipelines.cli.arguments import command_parser
from pipelines.cli.command import run_lake_command
from pipelines.cli.demo.tour import run_demo

LONGEST_SECONDS = 3_600


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("demo", __doc__)
    text = "how long the loop goes on once it has caught up with the history (default: %(default)s)"
    options.add_argument("--seconds", type=_seconds, default=5, metavar="N", help=text)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo, and returns its exit code."""
    return run_lake_command(partial(run_demo, parser().parse_args(arguments).seconds))


def _seconds(text: str) -> float:
    if not text.isdecimal() or int(text) > LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a number of seconds up to {LONGEST_SECONDS:,}")
    return float(text)


if __name__ == "__main__":
    end(main())
