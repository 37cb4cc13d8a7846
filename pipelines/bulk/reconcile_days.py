"""Compares days of streams in API, warehouse and lake, and repairs them: one day of a stream is one unit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from pipelines.fetch.api import open_api, utc_now
from pipelines.fetch.reading import FetchPages
from pipelines.host.logs import log
from pipelines.lake.reads import read_lake
from pipelines.load.spool import open_spool
from pipelines.proof.both_stores import open_copies, open_sidecars
from pipelines.proof.compare import Completeness, HourCheck
from pipelines.proof.gaps import hours_with_gaps
from pipelines.proof.repair import Repair
from pipelines.proof.sides import ApiSide
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AccountError, AuditLogsError
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window

from .shared import Shared
from .units import open_pool, run_units

StreamDay = tuple[Stream, Window]


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
            "events": self.events,
            "gaps": list(map(_hour_as_json, self.gaps)),
            "not_in_api": self.not_in_api,
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


def reconcile_days(
    days: Sequence[StreamDay], window: Window, scope: Scope, settings: Settings, shared: Shared
) -> Reconciled:
    """Compares days of streams, several side by side, and repairs them; the failures of streams are in `shared`."""
    open_unit = partial(_open_worker, scope)
    # First: otherwise an event that is quarantined in an hour that is repaired could not be written.
    total = Reconciled(_reconcile_quarantines(window, scope, settings, shared))

    def progress() -> str:
        return f"{total.events:,} events, {hours_with_gaps(len(total.gaps))}"

    with open_pool(None, open_unit, settings, shared, threads=shared.threads, asks_api=scope.asks_api) as pool:
        for checks in shared.results_of(run_units(days, pool, "reconcile", progress)):
            total.hours += len(checks)
            total.events += sum(check.most_events for check in checks)
            total.checks += [check for check in checks if check.is_gap or check.missing]
    total.checks.sort(key=lambda check: (check.stream, check.hour))
    return total


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
            repair = Repair(copies, sidecars, fetch_pages, settings.is_read)
        yield _Worker(scope, shared, completeness, fetch_pages, repair)


@dataclass
class _Worker:
    """Does units in one thread."""

    scope: Scope
    shared: Shared
    completeness: Completeness
    fetch_pages: FetchPages | None
    repair: Repair | None

    def __call__(self, day: StreamDay) -> list[HourCheck]:
        """Compares a day, repairs it if asked to, and returns how it is in the end."""
        return self.shared.ask("reconcile", day[0], lambda: self._check_and_mend(*day))

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

    def _check_and_mend(self, stream: Stream, window: Window) -> list[HourCheck]:
        checks = self._check(stream, window, {})
        gaps = [check for check in checks if check.is_gap]
        if self.repair is None or not gaps:
            return checks
        for gap in gaps:
            log.warning("reconcile.gap", **gap.about, found="; ".join(gap.problems))
            self.repair.mend(gap)
        return self._check(stream, window, {gap.hour: gap.broken for gap in gaps if gap.broken is not None})

    def _check(self, stream: Stream, window: Window, set_aside: Mapping[datetime, AuditLogsError]) -> list[HourCheck]:
        api = None
        if self.fetch_pages is not None:
            api = ApiSide.read(self.fetch_pages, stream, window, with_contents=self.scope.with_contents)
        return self.completeness.check(stream, window, api, set_aside)
