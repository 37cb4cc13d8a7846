"""Polls the Cloudflare Audit Logs API into both stores: the main job.

Results on stdout, logs and progress on stderr. SIGTERM and Ctrl-C finish the loads that run, for a minute at most.

Examples:
  cloudflare-audit run                  the loop: polls every POLL_INTERVAL_SECONDS
  cloudflare-audit run --once           one poll, for a timer; catches up whatever is missing
  cloudflare-audit run --once --json    the same, with the result for machines
  cloudflare-audit run --shard 1/3      the first of three loops that divide the accounts

Exit codes: 0 done, 1 failed or an account failed, 2 wrong usage or settings, 3 a gap was found, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_lake_command
from pipelines.cli.main_job import run
from pipelines.fetch.api import utc_now
from pipelines.host.logs import log
from pipelines.host.memory import keep_small
from pipelines.host.output import say
from pipelines.loop.report import as_json, as_text, exit_code
from pipelines.settings.settings import read_environment, read_settings
from pipelines.settings.shards import WHOLE, Shard
from pipelines.watch.stopping import stop_on_signals

LONGEST_STOP_SECONDS = 60
"""A load may still take so long after a signal to stop. Then the process ends as if killed, which is safe."""


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("run", __doc__)
    options.add_argument("--once", action="store_true", help="one poll, for a timer; catches up whatever is missing")
    add_json_option(options, "with --once: the result as JSON")
    options.add_argument(
        "--shard", type=Shard.parse, default=WHOLE, metavar="K/N", help="the Kth of N loops that divide the accounts"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the loop, or one poll of it, and returns the exit code."""
    options = parser().parse_args(arguments)
    if options.json and not options.once:
        parser().error("--json goes with --once")
    keep_small()
    return run_lake_command(partial(_run, options))


def _run(options: argparse.Namespace) -> int:
    settings = read_settings(read_environment(), now=utc_now())
    for warning in settings.warnings:
        log.warning("settings.warning", warning=warning)
    report = run(settings, once=options.once, shard=options.shard, stop=stop_on_signals(LONGEST_STOP_SECONDS))
    if not options.once:
        return 0
    say(json.dumps(as_json(report)) if options.json else as_text(report))
    return exit_code(report)


def _main() -> int:
    """Returns the exit code, even of a defect: the interpreter would run on to end what it began."""
    try:
        return main()
    except Exception:  # noqa: BLE001  # printed as ever
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    end(_main())
