"""Makes day copies in the lake, so that a question over months opens one object a day instead of 24.

Of days that are closed (no sweep reads them any more) and were found complete when their hours were compared last; the
others are named, with the reason. `--without-warehouse` takes every closed day as the lake has it: for a lake that was
never compared. A copy equals the objects of its hours either way, or is not used. Deleting copies loses nothing.

May be ended and run again at any time, beside the loop, which makes the copies of new days by itself.

Examples:
  cloudflare-audit compact                       every day that is ready
  cloudflare-audit compact --since 2026-01-01    the days since then

Exit codes: 0 done, 1 an hour's object is broken, 2 wrong usage, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from pipelines.bulk.compact_days import CompactedDays, compact_days, days_with_events
from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_lake_command, run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, window_of
from pipelines.host.output import say
from pipelines.lake.reads import read_lake
from pipelines.proof.compaction import Outcome
from pipelines.settings.settings import Settings, read_environment, read_settings
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("compact", __doc__)
    add_window_options(options, since=EARLIEST)
    options.add_argument("--without-warehouse", action="store_true", help="closed days as they are, compared or not")
    add_json_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the copies, and returns the exit code."""
    options = parser().parse_args(arguments)
    work = partial(_compact, window_of(parser(), options), options)
    if not options.without_warehouse:
        return run_window_command(work, asks_api=False)
    return run_lake_command(lambda: work(read_settings(read_environment(), now=datetime.now(UTC), asks_api=False)))


def _compact(window: Window, options: argparse.Namespace, settings: Settings) -> int:
    with read_lake() as lake:
        accounts = accounts_of(options.account, settings.account_ids, lake.has_account)
        days = days_with_events(lake, accounts, window)
    done = compact_days(days, settings, with_warehouse=not options.without_warehouse)
    say(json.dumps(done.as_json()) if options.json else _as_text(done))
    return 1 if done.broken else 0


def _as_text(done: CompactedDays) -> str:
    reasons = Counter((left.account_id, left.reason) for left in done.left_out)
    first = {(left.account_id, left.reason): left.day for left in sorted(done.left_out, reverse=True)}
    lines = [
        f"account {account_id}: {count:,} days left out, the first {first[account_id, reason]}: {reason}"
        for (account_id, reason), count in sorted(reasons.items())
    ]
    made, whole, removed = (done.counts[outcome] for outcome in (Outcome.MADE, Outcome.WHOLE, Outcome.REMOVED))
    text = f"{made:,} copies made of {done.events:,} events, {whole:,} were whole"
    text += f", {removed:,} removed" if removed else ""
    text += f"; {len(done.broken):,} days have a broken object, see the log" if done.broken else ""
    return "\n".join([*lines, text])


if __name__ == "__main__":
    end(main())
