"""Hours whose newest comparison found a gap: what to say of them, and the commands that repair them. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipelines.lake.partitions import HOUR
from pipelines.warehouse.status import OpenGap

MOST_SHOWN = 5
"""Repairs that people are shown; `--json` has all."""

_APART = timedelta(days=1)
"""Hours that are closer to each other are repaired by one command."""


class Repair(NamedTuple):
    """A command that repairs hours of an account."""

    account_id: str
    since: datetime
    before: datetime
    hours: int
    """In which there is a gap, in any version."""
    command: str


def repairs_of(gaps: Sequence[OpenGap], is_known: Callable[[str], bool]) -> list[Repair]:
    """The commands that repair the gaps, the newest first. The API is asked for accounts alone that are known."""
    by_account: dict[str, set[datetime]] = defaultdict(set)
    for gap in gaps:
        by_account[gap.stream.account_id].add(gap.hour.astimezone(UTC))
    found = [
        _repair(account_id, hours, asks_api=is_known(account_id))
        for account_id, its in by_account.items()
        for hours in _stretches(sorted(its))
    ]
    return sorted(found, key=lambda repair: repair.since, reverse=True)


def _stretches(hours: Sequence[datetime]) -> Iterator[list[datetime]]:
    stretch = [hours[0]]
    for hour in hours[1:]:
        if hour - stretch[-1] > _APART:
            yield stretch
            stretch = []
        stretch.append(hour)
    yield stretch


def _repair(account_id: str, hours: Sequence[datetime], *, asks_api: bool) -> Repair:
    since, before = hours[0], hours[-1] + HOUR
    window = f"--since {since:%Y-%m-%dT%H:%M:%SZ} --before {before:%Y-%m-%dT%H:%M:%SZ}"
    how = "--repair" if asks_api else "--repair --without-api"
    command = f"python pipelines/reconcile.py {window} --account {account_id} {how}"
    return Repair(account_id, since, before, len(hours), command)


def summary_of(gaps: Sequence[OpenGap]) -> str:
    """How many hours, and what is wrong in them."""
    counts = {what: sum(gap.counts[what] for gap in gaps) for what in (gaps[0].counts if gaps else ())}
    wrong = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    have = "hour has a gap" if len(gaps) == 1 else "hours have gaps"
    return f"{len(gaps):,} {have}: {wrong or 'an object is broken, or in the wrong place'}"
