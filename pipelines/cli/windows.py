"""The window of time that a command works on: `--since`, `--before`, `--account`; and its days and hours."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from pipelines.settings.settings import UsageError
from pipelines.settings.values import account_ids
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST

DAY = timedelta(days=1)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": DAY, "w": timedelta(weeks=1)}
_AGE = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)
API_KEEPS = timedelta(days=548)
"""18 months: how long the API shows an event, as documented."""


def add_window_options(parser: argparse.ArgumentParser, *, since: datetime | None = None) -> None:
    """Adds the options that `window_of` and `accounts_of` read. With a `since`, the window need not be given."""
    add_time_options(parser, since=since)
    parser.add_argument(
        "--account",
        action="append",
        type=_account,
        metavar="A",
        help="an account id; several times for several; default: CLOUDFLARE_ACCOUNT_ID",
    )


def add_time_options(parser: argparse.ArgumentParser, *, since: datetime | None = None) -> None:
    """Adds the options that `window_of` reads alone."""
    now = datetime.now(UTC)
    time = partial(_time, now)
    parser.set_defaults(now=now)
    begin = "from this time or day on, UTC, or 90m, 24h, 7d, 2w before now"
    begin += "" if since is None else "; default: from the first event on"
    parser.add_argument("--since", required=since is None, default=since, type=time, metavar="T", help=begin)
    parser.add_argument("--before", type=time, metavar="T", help="before this time or day, likewise; default: now")


def window_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Window:
    """Returns the window that was asked for. Ends the process (exit 2) if it is empty, or begins in the future."""
    window = Window(options.since, options.before or options.now)
    if window.since >= options.now:
        parser.error(f"--since ({_shown(window.since)}) is not in the past: nothing is there yet")
    if window.since >= window.before:
        parser.error(f"--since ({_shown(window.since)}) has to be before --before ({_shown(window.before)})")
    if options.before is None and window.since > EARLIEST:
        print(f"from {_shown(window.since)} to {_shown(window.before)}", file=sys.stderr)
    return window


def accounts_of(
    chosen: Sequence[str] | None, configured: Sequence[str], is_known: Callable[[str], bool] = lambda _: False
) -> tuple[str, ...]:
    """The accounts that were asked for, each once; without any, those of the settings."""
    unknown = [account_id for account_id in chosen or () if account_id not in configured and not is_known(account_id)]
    if unknown:
        known = f"CLOUDFLARE_ACCOUNT_ID has {', '.join(configured) or 'none'}"
        raise UsageError(f"unknown account {', '.join(unknown)}: {known}")
    if not chosen and not configured:
        raise UsageError("no account: set CLOUDFLARE_ACCOUNT_ID, or name one with --account")
    return tuple(dict.fromkeys(chosen or configured))


def api_window(window: Window, now: datetime) -> Window:
    """The part of a window that the API can have: of its 18 months, and past."""
    oldest = now - API_KEEPS
    if window.since < oldest:
        kept = f"beyond what the API keeps, 18 months: begin with {oldest:%Y-%m-%d} or later"
        raise UsageError(f"--since {window.since:%Y-%m-%d} is {kept}")
    return past_window(window, now)


def past_window(window: Window, now: datetime) -> Window:
    """The part of a window that is past; says so if that is not all of it."""
    if window.since >= now:
        raise UsageError(f"--since {window.since.isoformat()} is not before {now.isoformat()}: nothing is there yet")
    if window.before > now:
        print(f"only until {now:%Y-%m-%d %H:%M:%S} UTC: what comes later is not settled yet", file=sys.stderr)
    return Window(window.since, min(window.before, now))


def days_of(window: Window) -> Iterator[Window]:
    """The parts of a window that lie in one day (UTC) each, oldest first."""
    return window.parts(DAY)


def parse_moment(text: str, now: datetime) -> datetime:
    """Returns the time that is meant, in UTC: ISO 8601, a day for its begin, or an age such as `24h`. Pure.

    Raises:
        ValueError: it means no time, or one before 1900; the text is a whole sentence.
    """
    age = _AGE.fullmatch(text)
    time = _before(now, int(age[1]) * _UNITS[age[2]]) if age else _iso_time(text)
    if time < EARLIEST:
        raise ValueError(f"{text:.80} is before 1900: no event is as old")
    return time


def _before(now: datetime, age: timedelta) -> datetime:
    return now - age if age < now - EARLIEST else datetime.min.replace(tzinfo=UTC)


def _iso_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        how = "write it as 2026-01-31, 2026-01-31T00:00:00Z, or 90m, 24h, 7d, 2w before now"
        raise ValueError(f"{text!r:.80} is not a time: {how}") from None


def _time(now: datetime, text: str) -> datetime:
    try:
        time = parse_moment(text, now)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not _AGE.fullmatch(text) and datetime.fromisoformat(text).tzinfo is None:
        print(f"{text} has no time zone: taken as UTC", file=sys.stderr)
    return time


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def parse_hour(text: str) -> datetime:
    """Returns the begin of an hour (UTC). Raises UsageError if the text is none."""
    try:
        time = _time(datetime.now(UTC), text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from None
    if time != time.replace(minute=0, second=0, microsecond=0):
        raise UsageError(f"{text} is not the begin of an hour")
    return time


def _account(text: str) -> str:
    try:
        (account_id,) = account_ids(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not one account id") from None
    return account_id
