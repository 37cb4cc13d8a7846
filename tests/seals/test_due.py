"""When an hour is sealed: every version was read past it, with the lag, and it has ended long enough ago."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from zlib import crc32

import pytest

from pipelines.loop.failures import Failures
from pipelines.loop.report import Flow, Report
from pipelines.seals.hour_objects import whole_hours
from pipelines.seals.sealer import Sealer, read_to_of
from pipelines.seals.sealing import has_its_turn
from pipelines.settings.settings import Settings, read_settings
from sources.cloudflare_audit_logs.errors import RefusedError
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT

NOW = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)
V1, V2 = Stream(ACCOUNT, "v1"), Stream(ACCOUNT, "v2")
BEGINS = {V1: NOW - timedelta(days=2), V2: NOW - timedelta(days=1)}


def settings(**more: str) -> Settings:
    """Of one account in both versions."""
    return read_settings({"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": ACCOUNT, **more}, now=NOW)


def report(read: dict[Stream, datetime], *, refused: bool = False) -> Report:
    """Of a loop that has loaded polls into the lake which began at these times."""
    failures = Failures(settings())
    made = Report(failures)
    for stream, time in read.items():
        made._flows["lake", stream] = Flow(succeeded=time)  # noqa: SLF001  # as the loop's thread does
    if refused:
        failures.accounts.note(V2, RefusedError("no"), "later")
        failures.accounts.note_readable(V1)
    return made


def test_the_version_that_is_behind_decides() -> None:
    """Hours end at the least of: its last whole poll less the lag, and now less SEAL_AFTER_MINUTES."""
    behind, recent = NOW - timedelta(hours=3), NOW - timedelta(seconds=30)
    for read, closed in (
        ({V1: recent, V2: behind}, behind - timedelta(minutes=15)),
        ({V1: recent, V2: recent}, NOW - timedelta(hours=1)),
    ):
        found = read_to_of(ACCOUNT, settings(), report(read), BEGINS, NOW)
        assert found is not None
        assert (found.begin, found.closed) == (BEGINS[V2], closed)
        assert found.by_version.keys() == {"v1", "v2"}


def test_nothing_is_closed_before_each_version_was_read() -> None:
    """Not after a start, and not while one version cannot be read; but without one that the API refuses."""
    recent = NOW - timedelta(seconds=30)

    assert read_to_of(ACCOUNT, settings(), report({V1: recent}), BEGINS, NOW) is None
    assert read_to_of(ACCOUNT, settings(), report({V1: recent, V2: recent}), {V1: BEGINS[V1]}, NOW) is None
    found = read_to_of(ACCOUNT, settings(), report({V1: recent}, refused=True), {V1: BEGINS[V1]}, NOW)
    assert found is not None
    assert found.by_version.keys() == {"v1"}


def test_an_account_is_listed_once_a_day() -> None:
    """Whatever its id; the accounts share the day's hours out among them."""
    accounts = [f"{number:032x}" for number in range(200)]

    turns = {account: [hour for hour in range(48) if has_its_turn(account, [hour])] for account in accounts}

    assert {len(hours) for hours in turns.values()} == {2}
    assert {hours[1] - hours[0] for hours in turns.values()} == {24}
    assert max(Counter(crc32(account.encode()) % 24 for account in accounts).values()) < 20


@pytest.mark.parametrize(("minutes", "first"), [(0, 0), (1, 1), (59, 1)])
def test_hours_are_whole(minutes: int, first: int) -> None:
    """An hour whose beginning was not read is left out, and so is one that has not ended."""
    since = datetime(2026, 11, 27, tzinfo=UTC)

    hours = whole_hours(since + timedelta(minutes=minutes), since + timedelta(hours=4, minutes=59), 10)

    assert hours == [since + timedelta(hours=number) for number in range(first, 4)]
    assert len(whole_hours(since, since + timedelta(hours=4), 2)) == 2


def test_without_a_key_nothing_is_due() -> None:
    """And with one, at once."""
    off, on = settings(), settings(SEAL_KEY_FILE="/nowhere/key")

    assert not Sealer(off, lambda: NOW, report({}), lambda: 1.0).is_due
    assert Sealer(on, lambda: NOW, report({}), lambda: 1.0).is_due
