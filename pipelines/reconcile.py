"""`python pipelines/reconcile.py --since T --before T [--account A]… [--repair] [--content] [--without-api] [--json]`.

Proves that API, warehouse and lake hold the same events, each once, or says hour by hour what is missing where: counts
and digests of the ids first, the ids only of hours that differ; of a quarantine, if the lake's can be read.
`--content` compares what the events say, too.
`--repair` fills each store from the others, and compares again. The results are kept in `audit_completeness`.
Exit codes: 0 complete, 1 an account failed, 2 wrong usage, 3 there is a gap, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from functools import partial

from pipelines.bulk.reconcile_days import Reconciled, Scope, reconcile_days
from pipelines.bulk.shared import Shared
from pipelines.cli.command import run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, api_window, past_window, window_of
from pipelines.fetch.api import utc_now
from pipelines.fetch.refusals import refused_in_words
from pipelines.host.output import say
from pipelines.lake.reads import read_lake
from pipelines.proof.compare import SIDES
from pipelines.proof.gaps import hours_with_gaps
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.streams import Window

_HEAD = ("account", "version", "hour (UTC)", "API", "warehouse", "lake", "what is wrong")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the window, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="reconcile.py", description=__doc__)
    add_window_options(parser)
    parser.add_argument("--repair", action="store_true", help="fill what is missing, and compare again")
    parser.add_argument("--content", action="store_true", help="compare what the events say, too")
    parser.add_argument("--without-api", action="store_true", help="compare warehouse and lake alone")
    parser.add_argument("--json", action="store_true", help="the result as JSON, ids included")
    options = parser.parse_args(arguments)
    work = partial(_reconcile, window_of(parser, options), options)
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
    say(json.dumps(found.as_json() | shared.as_json()) if options.json else _as_text(found, scope, shared))
    return shared.exit_code or (3 if found.gaps or found.broken_quarantines else 0)


def _as_text(found: Reconciled, scope: Scope, shared: Shared) -> str:
    lines = [f"account {account_id}: its quarantine in the lake is broken" for account_id in found.broken_quarantines]
    table: list[tuple[str, ...]] = [_HEAD] if found.gaps else []
    for check in found.gaps:
        stream, hour = check.stream, f"{check.hour:%Y-%m-%d %H}h"
        counts = [f"{check.events[side]:,}" if side in check.events else "-" for side in SIDES]
        table.append((stream.account_id, stream.api_version, hour, *counts, "; ".join(check.problems)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    asked, failures = "API, warehouse, lake" if scope.asks_api else "warehouse, lake", len(shared.failing)
    result = "no gap found" if shared.failed else "complete"
    result = hours_with_gaps(len(found.gaps)) if found.gaps else result
    result += f"; {failures:,} accounts could not be compared, see the log" if failures else ""
    result += refused_in_words(shared.refused_versions)
    result += f"; {found.not_in_api:,} events that the API does not show (any more)" if found.not_in_api else ""
    return "\n".join([*lines, f"{found.hours:,} hours, {found.events:,} events in {asked}: {result}"])


if __name__ == "__main__":
    end(main())
