"""The window of time that a command works on: `--since`, `--before`, `--account`; and its days and hours."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pipelines.settings.settings import UsageError
from pipelines.settings.values import account_ids
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST

DAY = timedelta(days=1)
API_KEEPS = timedelta(days=548)
"""18 months: how long the API shows an event, as documented."""


def add_window_options(parser: argparse.ArgumentParser, *, since: datetime | None = None) -> None:
    """The options that `window_of` and `accounts_of` read. With a `since`, the window need not be given: up to now."""
    add_time_options(parser, since=since)
    parser.add_argument(
        "--account",
        action="append",
        type=_account,
        metavar="A",
        help="an account id; several times for several; default: CLOUDFLARE_ACCOUNT_ID",
    )


def add_time_options(parser: argparse.ArgumentParser, *, since: datetime | None = None) -> None:
    """The options that `window_of` reads alone."""
    before = None if since is None else datetime.now(UTC)
    is_required = since is None
    parser.add_argument(
        "--since", required=is_required, default=since, type=_time, metavar="T", help="from this time or day on, UTC"
    )
    parser.add_argument(
        "--before", required=is_required, default=before, type=_time, metavar="T", help="before this time or day, UTC"
    )


def window_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Window:
    """The window that was asked for. Ends the process (exit 2) if it is empty."""
    window = Window(options.since.astimezone(UTC), options.before.astimezone(UTC))
    if window.since >= window.before:
        parser.error(f"--since ({window.since.isoformat()}) has to be before --before ({window.before.isoformat()})")
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


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            print(f"{text} has no time zone: taken as UTC", file=sys.stderr)
            time = time.replace(tzinfo=UTC)
        time = time.astimezone(UTC)
    except (ValueError, OverflowError):
        msg = f"{text!r:.80} is not a time: write it as 2026-01-31 or 2026-01-31T00:00:00Z"
        raise argparse.ArgumentTypeError(msg) from None
    if time < EARLIEST:
        raise argparse.ArgumentTypeError(f"{text} is before 1900: no event is as old")
    return time


def parse_hour(text: str) -> datetime:
    """The begin of an hour (UTC). Raises UsageError if the text is none."""
    try:
        time = _time(text)
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
