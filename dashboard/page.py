"""The page's questions and answers: the filters of its controls, and a section each. Knows no store's SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.times import EARLIEST, LATEST

from .questions import LOOK_BACK, SUBJECTS, Filters
from .stores import EventStore, Row, read_settings_anew, store_of

RANGES = {
    "Last hour": timedelta(hours=1),
    "Last 24 hours": timedelta(days=1),
    "Last 7 days": timedelta(days=7),
    "Last 30 days": timedelta(days=30),
    "Last 90 days": timedelta(days=90),
}
DATES = "Dates …"
TIME = "%Y-%m-%dT%H:%M"
DEFAULT_RANGE = "Last 7 days"
STORES = {"Warehouse": "warehouse", "Lake": "lake"}
VERSIONS = {"v1 and v2": "", "v1": "v1", "v2": "v2"}
SECTIONS = ("Overview", "First seen", "Failures", "Events", "Completeness", "Health")
_LAST_DAY = datetime(9999, 12, 30)  # noqa: DTZ001  # marimo's are without a zone
_DAY_LENGTH = len("2026-11-20")
ALL_ACCOUNTS = "All accounts"
TITLES = {"who": "Who", "what": "What", "on what": "On what", "from where": "From where"}
NEW = f"not seen in the {LOOK_BACK.days} days before"


@dataclass(frozen=True)
class Opened:
    """A store and its accounts, or why there are none."""

    store: EventStore | None
    accounts: list[str]
    error: AuditLogsError | None = None


def open_store(name: str) -> Opened:
    """The store as the settings say now."""
    try:
        read_settings_anew()
        store = store_of(name)
        accounts = store.accounts()
    except AuditLogsError as error:
        return Opened(None, [], error)
    if not accounts:
        return Opened(None, [], AuditLogsError(f"the {name} has no events yet", hint="start the pipeline: make run"))
    return Opened(store, accounts)


def window_of(chosen: str, first: datetime, last: datetime, now: datetime) -> tuple[datetime, datetime]:
    """The time that was chosen: up to now, or between two (UTC), within what both stores can reckon with."""
    if chosen in RANGES:
        return now - RANGES[chosen], now
    since, before = (min(max(at.replace(tzinfo=UTC), EARLIEST), LATEST) for at in sorted((first, last)))
    return since, max(before, since + timedelta(minutes=1))


def chosen(query: Mapping[str, Any], name: str, options: Any, default: str) -> str:
    """The option that the address asks for, if it is one."""
    value = str(query.get(name) or "")
    return value if value in options else default


def dates_of(query: Mapping[str, Any], now: datetime) -> tuple[datetime, datetime]:
    """The time that the address asks for, or the last week; of a day, `to` is its end. In UTC without saying so."""
    try:
        first, last = (_time_of(str(query[name])) for name in ("from", "to"))
        return first, min(last, _LAST_DAY) + timedelta(days=len(str(query["to"])) == _DAY_LENGTH)
    except (KeyError, ValueError, OverflowError):
        today = datetime.combine(now.date(), time())
        return today - timedelta(days=6), today + timedelta(days=1)


def misread(query: Mapping[str, Any], accounts: Sequence[str]) -> list[str]:
    """The options of the address that do not exist, and those that are shown instead."""
    account, said = str(query.get("account") or ALL_ACCOUNTS), []
    if account not in (ALL_ACCOUNTS, *accounts):
        said.append(f"there is no account {account} here: all accounts are shown")
    try:
        for name in ("from", "to"):
            _time_of(str(query.get(name) or date.max))
    except (ValueError, OverflowError):
        said.append("from and to are no times, such as 2026-11-20 or 2026-11-20T13:00: the last week is offered")
    return said


def _time_of(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at


def by_subject(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of an answer by `subject`; one that has none has an empty list."""
    found: dict[str, list[Row]] = {name: [] for name in ("time", *SUBJECTS)}
    for row in rows:
        found[row["subject"]].append(row)
    return found


def by_version(overview: Mapping[str, list[Row]]) -> list[Row]:
    """The number of events of each API version, v1 first."""
    return sorted(overview["version"], key=lambda row: str(row["value"]))


def counted_twice(overview: Mapping[str, list[Row]]) -> list[str]:
    """The caveat of numbers in which both versions are counted."""
    both = "most deeds of an account that is read in v1 and v2 have a record in each, and are counted twice"
    return [f"{both}: choose one under API to count deeds"] * (len(by_version(overview)) > 1)


def numbers_of(overview: Mapping[str, list[Row]], filters: Filters) -> list[tuple[str, str, str]]:
    """The header's key numbers: name, number, remark."""
    events = sum(row["events"] for row in overview["time"])
    failed = sum(row["failures"] for row in overview["time"])
    days = (filters.before - filters.since) / timedelta(days=1)
    failed_part = f"{failed / events:.1%}" if events else ""
    a_day = f"{events / days:,.0f} a day"
    versions = [f"{row['events']:,} in {row['value']}" for row in by_version(overview)]
    numbers = [
        ("Events", f"{events:,}", "; ".join([a_day, *(versions if len(versions) > 1 else [])])),
        ("Failed", f"{failed:,}", failed_part),
    ]
    for subject, title in (("who", "Actors"), ("what", "Actions"), ("from where", "Addresses")):
        rows = overview[subject]
        most = next((row["value"] for row in rows if row["value"] is not None), "")
        numbers.append((title, f"{rows[0]['distinct_values'] if rows else 0:,}", f"mostly {most}" if most else ""))
    return numbers


def filters_of(
    since: datetime, before: datetime, account: str, version: str, search: str, *, failures: bool
) -> Filters:
    """The filters that the controls say."""
    account_id = "" if account == ALL_ACCOUNTS else account
    return Filters(since, before, account_id, VERSIONS[version], search.strip(), failures)
