"""`python pipelines/reconcile.py --since T --before T [--account A]… [--repair] [--content] [--without-api] [--json]`.

Proves that API, warehouse and lake hold the same events, each once, or says hour by hour what is missing where: counts
and digests of the ids first, the ids only of hours that differ; of a quarantine, whether the lake's can be read.
`--content` compares what the events say, too.
`--repair` fills each store from the others, and compares again. What was found is kept in `audit_completeness`.
Exit codes: 0 complete, 1 an account failed, 2 wrong usage, 3 there is a gap, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from tqdm import tqdm

from pipelines.backfill import LARGEST_POOL
from pipelines.bulk.backfill_unit import Unit
from pipelines.bulk.units import Shared, run_units
from pipelines.cli.command import run_window_command
from pipelines.cli.windows import accounts_of, add_window_options, api_window, days_of, past_window, window_of
from pipelines.fetch.api import open_api, sleep_until, utc_now
from pipelines.fetch.reading import FetchPages
from pipelines.fetch.refusals import told_refused
from pipelines.host.logs import log
from pipelines.lake.reads import read_lake
from pipelines.load.spool import open_spool
from pipelines.proof.both_stores import open_copies, open_sidecars
from pipelines.proof.compare import STORES, ApiSide, Completeness, HourCheck
from pipelines.proof.repair import Repair
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, RateLimitedError
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window


class Scope(NamedTuple):
    """What is compared, and what is done about it."""

    asks_api: bool
    with_contents: bool
    repairs: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the window, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="reconcile.py", description=__doc__)
    add_window_options(parser)
    parser.add_argument("--repair", action="store_true", help="fill what is missing, and compare again")
    parser.add_argument("--content", action="store_true", help="compare what the events say, too")
    parser.add_argument("--without-api", action="store_true", help="compare warehouse and lake alone")
    parser.add_argument("--json", action="store_true", help="the result as JSON, ids included")
    options = parser.parse_args(arguments)
    window = window_of(parser, options)
    scope = Scope(not options.without_api, options.content, options.repair)
    work = partial(reconcile, window, options.account, scope, as_json=options.json)
    return run_window_command(work, asks_api=scope.asks_api)


def reconcile(window: Window, chosen: Sequence[str] | None, scope: Scope, settings: Settings, *, as_json: bool) -> int:
    """The command itself."""
    is_known = _is_not_known if scope.asks_api else _is_in_lake
    streams = settings.streams_of(accounts_of(chosen, settings.account_ids, is_known))
    # After the safety lag: before it, events may come at any moment.
    settled = utc_now() - max(map(settings.safety_lag, streams))
    window = api_window(window, settled) if scope.asks_api else past_window(window, settled)
    units = [(stream, day) for day in days_of(window) for stream in streams]
    shared, checks = Shared(streams), list[HourCheck]()
    open_worker = partial(_open_worker, settings, scope, shared)
    # First: what is quarantined in an hour that is repaired could not be written otherwise.
    broken = _broken_quarantines(streams, window, open_worker, repairs=scope.repairs)
    hours = events = 0
    with tqdm(total=len(units), unit=" days", desc="reconcile", disable=not sys.stderr.isatty()) as bar:
        for (stream, _), result in run_units(
            units, open_worker, workers=min(LARGEST_POOL, len(streams)), stop=shared.stop
        ):
            if isinstance(result, AuditLogsError):
                shared.note_failure(stream, result)
            else:
                shared.note_readable(stream)
                hours += len(result)
                events += sum(max(check.events.values(), default=0) for check in result)
                checks += [check for check in result if check.is_gap or check.missing]
            bar.update()
            bar.set_postfix_str(f"{events:,} events, {sum(check.is_gap for check in checks):,} hours with gaps")
    shared.tell_rest()
    checks.sort(key=lambda check: (check.stream, check.hour))
    gaps = [check for check in checks if check.is_gap]
    if as_json:
        print(json.dumps(_as_json(checks, hours, events, shared) | {"broken_quarantines": broken}))
    else:
        for account_id in broken:
            print(f"account {account_id}: its quarantine in the lake is broken")
        print(_as_text(checks, hours, events, scope, shared))
    return shared.exit_code or (3 if gaps or broken else 0)


def _broken_quarantines(
    streams: Sequence[Stream],
    window: Window,
    open_worker: Callable[[str], AbstractContextManager["_Worker"]],
    *,
    repairs: bool,
) -> list[str]:
    """The accounts whose quarantine in the lake cannot be read; after a repair, those that nobody has an event for."""
    received = Window(window.since, utc_now())
    with read_lake(must_exist=False) as lake:  # whether there is one is asked anyway
        broken = lake.broken_quarantines(list(dict.fromkeys(stream.account_id for stream in streams)), received)
    for error in chain.from_iterable(errors.values() for errors in broken.values()):
        log.error("reconcile.broken", error=error)
    if not broken or not repairs:
        return list(broken)
    with open_worker("quarantine") as worker:
        return [account_id for account_id in broken if not worker.mend_quarantine(account_id, window, received)]


def _is_not_known(_: str) -> bool:
    """The API needs a token for an account: the settings say which there are."""
    return False


def _is_in_lake(account_id: str) -> bool:
    with read_lake() as lake:
        return lake.has_account(account_id)


@dataclass
class _Worker:
    """What one thread needs, and how it does a unit."""

    scope: Scope
    shared: Shared
    completeness: Completeness
    fetch_pages: FetchPages | None
    repair: Repair | None

    def __call__(self, unit: Unit) -> list[HourCheck]:
        """Compares a window, mends it if told to, and returns how it was in the end."""
        self.shared.give_up(unit[0])
        while True:
            try:
                return self._check_and_mend(*unit)
            except RateLimitedError as error:
                log.warning("reconcile.rate_limited", error=error)
                sleep_until(error.until, self.shared.stop)

    def mend_quarantine(self, account_id: str, window: Window, received: Window) -> bool:
        """Makes an account's quarantine anew; False if nobody has anything for it, or the API cannot be asked."""
        try:
            return self.repair is not None and self.repair.mend_quarantine(account_id, window, received)
        except AccountError as error:
            self.shared.note_failure(Stream(account_id, API_VERSIONS[0]), error)
            return False

    def _check_and_mend(self, stream: Stream, window: Window) -> list[HourCheck]:
        checks = self._check(stream, window, {})
        gaps = [check for check in checks if check.is_gap]
        if self.repair is None or not gaps:
            return checks
        for gap in gaps:
            about = {"account": stream.account_id, "version": stream.api_version, "hour": gap.hour.isoformat()}
            log.warning("reconcile.gap", **about, found="; ".join(gap.problems))
            self.repair.mend(gap)
        return self._check(stream, window, {gap.hour: gap.broken for gap in gaps if gap.broken is not None})

    def _check(self, stream: Stream, window: Window, set_aside: Mapping[datetime, AuditLogsError]) -> list[HourCheck]:
        api = None
        if self.fetch_pages is not None:
            api = ApiSide.read(self.fetch_pages, stream, window, with_contents=self.scope.with_contents)
        return self.completeness.check(stream, window, api, set_aside)


@contextmanager
def _open_worker(settings: Settings, scope: Scope, shared: Shared, name: str) -> Iterator[_Worker]:
    with ExitStack() as stack:
        fetch_pages = None
        if scope.asks_api:
            fetch_pages = stack.enter_context(open_api(settings, shared.stop, utc_now, shared.budgets))
        copies = stack.enter_context(open_copies(settings.stores))
        completeness = Completeness(
            copies.warehouse,
            copies.lake,
            clock=utc_now,
            with_contents=scope.with_contents,
            is_all_asked_for=settings.is_all_asked_for,
        )
        repair = None
        if scope.repairs:
            spool = stack.enter_context(open_spool(settings.stores.data_dir))
            sidecars = stack.enter_context(open_sidecars(settings.stores, spool, f"repair_{name}", clock=utc_now))
            repair = Repair(
                fetch_pages,
                copies.warehouse,
                copies.lake,
                sidecars,
                copies.owner,
                copies.schema,
                settings.is_read,
            )
        yield _Worker(scope, shared, completeness, fetch_pages, repair)


def _as_json(checks: Sequence[HourCheck], hours: int, events: int, shared: Shared) -> dict[str, Any]:
    return {
        "hours": hours,
        "events": events,
        "gaps": [_hour_as_json(check) for check in checks if check.is_gap],
        "not_in_api": sum(len(check.missing.get("api", [])) for check in checks),
        "failed_accounts": {stream.name: str(error) for stream, error in shared.failures.items()},
        "refused_versions": {stream.name: str(error) for stream, error in shared.refused_versions.items()},
    }


def _hour_as_json(check: HourCheck) -> dict[str, Any]:
    return {
        "account_id": check.stream.account_id,
        "api_version": check.stream.api_version,
        "hour": check.hour.isoformat(),
        "events": check.events,
        "missing": {side: [event_id for event_id, _ in keys] for side, keys in check.missing.items()},
        "doubled": {"lake": [event_id for event_id, _ in check.doubled]} if check.doubled else {},
        "differing": {store: [event_id for event_id, _ in keys] for store, keys in (check.differing or {}).items()},
        "broken": None if check.broken is None else str(check.broken),
        "stray": check.stray,
        "lost": check.lost,
        "hidden": check.hidden,
    }


_HEAD = ("account", "version", "hour (UTC)", "API", "warehouse", "lake", "what is wrong")


def _as_text(checks: Sequence[HourCheck], hours: int, events: int, scope: Scope, shared: Shared) -> str:
    gaps = [check for check in checks if check.is_gap]
    lines = [_HEAD, *map(_line, gaps)] if gaps else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    forgotten = sum(len(check.missing.get("api", [])) for check in checks)
    asked = ", ".join(["API", *STORES] if scope.asks_api else STORES)
    failures = shared.failures
    found = f"{len(gaps):,} hours with gaps" if gaps else "complete" if not shared.failed else "no gap found"
    found += f"; {len(failures):,} accounts could not be compared, see the log" if failures else ""
    found += told_refused(shared.refused_versions)
    known = f"; {forgotten:,} events that the API does not show (any more)" if forgotten else ""
    return "\n".join([*table, f"{hours:,} hours, {events:,} events in {asked}: {found}{known}"])


def _line(check: HourCheck) -> tuple[str, ...]:
    counts = [f"{check.events[side]:,}" if side in check.events else "-" for side in ("api", *STORES)]
    hour = f"{check.hour:%Y-%m-%d %H}h"
    return check.stream.account_id, check.stream.api_version, hour, *counts, "; ".join(check.problems)


if __name__ == "__main__":
    end(main())
