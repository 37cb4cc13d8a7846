"""Proves that API, warehouse and lake hold the same events, each once, or names what is missing, hour by hour.

Compares counts and digests of the ids first, and the ids only of hours that differ; of a quarantine, if the lake's can
be read. `--content` compares what the events say, too. `--repair` fills each store from the others, and compares again.
The results are kept in `audit_completeness`.

Examples:
  cloudflare-audit reconcile --since 7d
  cloudflare-audit reconcile --since 2026-11-01 --before 2026-12-01 --repair
  cloudflare-audit reconcile --since 52w --without-api --json    warehouse and lake alone

Exit codes: 0 complete, 1 an account failed, 2 wrong usage, 3 there is a gap, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from functools import partial

from pipelines.bulk.reconcile_days import Scope, reconcile_days
from pipelines.bulk.shared import Shared
from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_window_command
from pipelines.cli.reconciled_text import reconciled_text
from pipelines.cli.windows import accounts_of, add_window_options, api_window, past_window, window_of
from pipelines.fetch.api import utc_now
from pipelines.host.output import say
from pipelines.lake.reads import read_lake
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.streams import Window


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("reconcile", __doc__)
    add_window_options(options)
    options.add_argument("--repair", action="store_true", help="fill what is missing, and compare again")
    options.add_argument("--content", action="store_true", help="compare what the events say, too")
    options.add_argument("--without-api", action="store_true", help="compare warehouse and lake alone")
    add_json_option(options, "the result as JSON, ids included")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the window, and returns the exit code."""
    options = parser().parse_args(arguments)
    work = partial(_reconcile, window_of(parser(), options), options)
    return run_window_command(work, asks_api=not options.without_api)


def _reconcile(window: Window, options: argparse.Namespace, settings: Settings) -> int:
    scope = Scope(not options.without_api, options.content, options.repair)
    with read_lake(must_exist=False) as lake:
        # The API needs a token for an account: the settings name all that it can be asked for.
        is_known = (lambda _: False) if scope.asks_api else lake.has_account
        shared = Shared(settings.streams_of(accounts_of(options.account, settings.account_ids, is_known)))
    # After the safety lag: before it, events may come at any moment.
    settled = utc_now() - max(map(settings.safety_lag, shared.streams))
    window = api_window(window, settled) if scope.asks_api else past_window(window, settled)
    found = reconcile_days(window, scope, settings, shared)
    say(json.dumps(found.as_json() | shared.as_json()) if options.json else reconciled_text(found, scope, shared))
    return shared.exit_code or (3 if found.gaps or found.broken_quarantines else 0)


if __name__ == "__main__":
    end(main())
