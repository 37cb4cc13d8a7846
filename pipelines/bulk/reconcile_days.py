"""Compares days of streams in API, warehouse and lake, and repairs them.

A unit is a day of a stream, or some weeks of which neither store has an event: those cost hardly more than a day.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from pipelines.fetch.api import open_api, utc_now
from pipelines.fetch.reading import FetchPages, fetch_exactly
from pipelines.host.logs import log
from pipelines.lake.partitions import DAY
from pipelines.lake.reads import read_lake
from pipelines.load.spool import open_spool
from pipelines.proof.both_stores import open_copies, open_sidecars
from pipelines.proof.compare import Completeness, HourCheck
from pipelines.proof.gaps import hours_with_gaps
from pipelines.proof.repair import Repair
from pipelines.proof.sides import ApiSide
from pipelines.seals.amending import notary_of
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError, HiddenEventsError
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window

from .shared import Shared
from .units import open_pool, run_units

QUIET_DAYS = 31
"""Compared at once: where nothing is expected, the API is asked once for all of them."""
_FEW_DAYS = 2
"""So few are compared without a look which of them have events."""


class Days(NamedTuple):
    """A day of a stream, or several of which neither store has an event."""

    window: Window
    are_quiet: bool = False


Unit = tuple[Stream, Days]


@dataclass(frozen=True)
class Scope:
    """The scope of a comparison: its sides, and if it repairs."""

    asks_api: bool
    with_contents: bool
    repairs: bool


@dataclass
class Reconciled:
    """The result of all units."""

    broken_quarantines: list[str]
    """Accounts; after a repair, those whose events no side has."""
    hours: int = 0
    events: int = 0
    warehouse_hours: int = 0
    """So many of them are not older than the warehouse's retention."""
    inexact: int = 0
    """Events that the repair has copied from the warehouse into the lake: nobody knows the API's text of them."""
    sides: Counter[str] = field(default_factory=Counter)
    """The events of each side that was asked."""
    checks: list[HourCheck] = field(default_factory=list)
    """The hours with a gap, and those of which the API lacks an event, in order."""

    @property
    def gaps(self) -> list[HourCheck]:
        """The hours with a gap."""
        return [check for check in self.checks if check.is_gap]

    @property
    def not_in_api(self) -> int:
        """The number of events that a store has and the API does not show."""
        return sum(len(check.missing.get("api", ())) for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Returns the command's result, without the failures."""
        return {
            "hours": self.hours,
            "warehouse_hours": self.warehouse_hours,
            "events": self.events,
            "sides": dict(self.sides),
            "gaps": list(map(_hour_as_json, self.gaps)),
            "not_in_api": self.not_in_api,
            "inexact": self.inexact,
            "broken_quarantines": self.broken_quarantines,
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


def reconcile_days(window: Window, scope: Scope, settings: Settings, shared: Shared) -> Reconciled:
    """Compares the days of all streams, several side by side, and repairs them; the failures are in `shared`."""
    open_unit = partial(_open_worker, scope)
    # First: otherwise an event that is quarantined in an hour that is repaired could not be written.
    total = Reconciled(_reconcile_quarantines(window, scope, settings, shared))

    def progress() -> str:
        return f"{total.events:,} events, {hours_with_gaps(len(total.gaps))}"

    units = _units(window, settings, shared.streams)
    with open_pool(None, open_unit, settings, shared, threads=shared.threads, asks_api=scope.asks_api) as pool:
        for checks in shared.results_of(run_units(units, pool, "reconcile", progress)):
            total.hours += len(checks)
            total.warehouse_hours += sum("warehouse" in check.events for check in checks)
            total.events += sum(check.most_events for check in checks)
            total.inexact += sum(check.inexact for check in checks)
            for check in checks:
                total.sides.update(check.events)
            total.checks += [check for check in checks if check.is_gap or check.missing]
    if total.inexact:
        hint = "their exact text is not known; if the API shows them: reconcile --content --repair"
        log.warning("repair.inexact", events=total.inexact, reason="copied from the warehouse", hint=hint)
    total.checks.sort(key=lambda check: (check.stream, check.hour))
    return total


def _units(window: Window, settings: Settings, streams: Sequence[Stream]) -> list[Unit]:
    """Returns the days, oldest first; of an account without events in some, these together, some weeks at a time."""
    days = list(window.parts(DAY))
    if len(days) <= _FEW_DAYS:
        return [(stream, Days(day)) for day in days for stream in streams]
    units: list[Unit] = []
    with open_copies(settings.stores) as copies:
        for account_id, its_streams in groupby(streams, key=lambda stream: stream.account_id):
            busy = {midnight(hour) for hour in copies.lake.hours(account_id, window)}
            busy |= copies.warehouse.days(account_id, window)
            its_days = runs_of(days, busy)
            units += [(stream, part) for stream in its_streams for part in its_days]
    return sorted(units, key=lambda unit: unit[1].window.since)


def runs_of(days: Sequence[Window], busy: Collection[datetime]) -> list[Days]:
    """Returns the busy days one by one, and the others in runs of at most QUIET_DAYS. Pure."""
    runs: list[Days] = []
    for day in days:
        is_quiet = midnight(day.since) not in busy
        last = runs[-1] if runs else None
        if is_quiet and last and last.are_quiet and day.before - last.window.since <= QUIET_DAYS * DAY:
            runs[-1] = Days(Window(last.window.since, day.before), are_quiet=True)
        else:
            runs.append(Days(day, is_quiet))
    return runs


def midnight(time: datetime) -> datetime:
    """Returns the begin of its day (UTC)."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def _reconcile_quarantines(window: Window, scope: Scope, settings: Settings, shared: Shared) -> list[str]:
    """Returns the accounts whose quarantine in the lake cannot be read; of a repair, those that it did not fill."""
    received = Window(window.since, utc_now())
    account_ids = list(dict.fromkeys(stream.account_id for stream in shared.streams))
    with read_lake(must_exist=False) as lake:  # each worker checks that there is one
        broken = lake.broken_quarantines(account_ids, received)
    for errors in broken.values():
        for error in errors.values():
            log.error("reconcile.broken", error=error)
    if not broken or not scope.repairs:
        return list(broken)
    with _open_worker(scope, settings, shared, "quarantine") as worker:
        return [account_id for account_id in broken if not worker.mend_quarantine(account_id, window, received)]


@contextmanager
def _open_worker(scope: Scope, settings: Settings, shared: Shared, name: str) -> Iterator["_Worker"]:
    with ExitStack() as stack:
        fetch_pages = repair = None
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
        if scope.repairs:
            spool = stack.enter_context(open_spool(settings.stores.data_dir))
            sidecars = stack.enter_context(open_sidecars(settings.stores, spool, f"repair_{name}", clock=utc_now))
            for sidecar in sidecars.values():
                sidecar.take_lock()
            notary = notary_of(settings, copies.lake.objects, utc_now)
            repair = Repair(copies, sidecars, fetch_pages, settings.is_read, shared.locks, notary)
        yield _Worker(scope, shared, completeness, fetch_pages, repair)


@dataclass
class _Worker:
    """Does units in one thread."""

    scope: Scope
    shared: Shared
    completeness: Completeness
    fetch_pages: FetchPages | None
    repair: Repair | None

    def __call__(self, unit: Unit) -> list[HourCheck]:
        """Compares the days, repairs them if asked to, and returns how they are in the end."""
        return self.shared.ask("reconcile", unit[0], lambda: self._check_days(*unit))

    def mend_quarantine(self, account_id: str, window: Window, received: Window) -> bool:
        """Makes an account's quarantine anew; False if no side has events for it, or the API cannot be asked."""
        stream, repair = Stream(account_id, API_VERSIONS[0]), self.repair
        try:
            return repair is not None and self.shared.ask(
                "reconcile", stream, lambda: repair.mend_quarantine(account_id, window, received)
            )
        except AccountError as error:
            self.shared.note_failure(stream, error)
            return False

    def _check_days(self, stream: Stream, days: Days) -> list[HourCheck]:
        if days.are_quiet and self._shows_nothing(stream, days.window):
            checks = self.completeness.check_quiet(stream, days.window, asks_api=self.scope.asks_api)
            if checks is not None:
                return checks
        return [check for day in days.window.parts(DAY) for check in self._check_and_mend(stream, day)]

    def _shows_nothing(self, stream: Stream, window: Window) -> bool:
        if self.fetch_pages is None:
            return True
        try:
            return not any(page.events.num_rows for page in fetch_exactly(self.fetch_pages)(stream, window, "asc"))
        except HiddenEventsError:
            return False

    def _check_and_mend(self, stream: Stream, window: Window) -> list[HourCheck]:
        checks = self._check(stream, window, {})
        gaps = [check for check in checks if check.is_gap]
        if self.repair is None or not gaps:
            return checks
        inexact = dict[datetime, int]()
        for gap in gaps:
            log.warning("reconcile.gap", **gap.about, found="; ".join(gap.problems))
            inexact[gap.hour] = self.repair.mend(gap)
        checks = self._check(stream, window, {gap.hour: gap.broken for gap in gaps if gap.broken is not None})
        for check in checks:
            check.inexact = inexact.get(check.hour, 0)
        return checks

    def _check(self, stream: Stream, window: Window, set_aside: Mapping[datetime, AuditLogsError]) -> list[HourCheck]:
        api = None
        if self.fetch_pages is not None:
            api = ApiSide.read(self.fetch_pages, stream, window, with_contents=self.scope.with_contents)
        return self.completeness.check(stream, window, api, set_aside)
