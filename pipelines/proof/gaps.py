"""Hours whose newest comparison found a gap: a summary of them, and the commands that repair them. Pure."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from pipelines.lake.partitions import HOUR
from pipelines.warehouse.status import OpenGap

MOST_SHOWN = 5
"""Repairs shown to people; `--json` has all."""

_APART = timedelta(days=1)
"""Hours closer to each other than this are repaired by one command."""


class Repair(NamedTuple):
    """A command that repairs hours of an account."""

    account_id: str
    since: datetime
    before: datetime
    hours: int
    """With a gap, in any version."""
    command: str


def repairs_of(gaps: Sequence[OpenGap], is_known: Callable[[str], bool]) -> list[Repair]:
    """Returns the commands that repair the gaps, the newest first. Only for known accounts the API is asked."""
    found: list[Repair] = []
    gap_hours = sorted({(gap.stream.account_id, gap.hour.astimezone(UTC)) for gap in gaps})
    for account_id, pairs in groupby(gap_hours, key=itemgetter(0)):
        hours = [hour for _, hour in pairs]
        how = "--repair" if is_known(account_id) else "--repair --without-api"
        begins = [n for n, hour in enumerate(hours) if n == 0 or hour - hours[n - 1] > _APART]
        for first, end in zip(begins, [*begins[1:], len(hours)], strict=True):
            since, before = hours[first], hours[end - 1] + HOUR
            window = f"--since {since:%Y-%m-%dT%H:%M:%SZ} --before {before:%Y-%m-%dT%H:%M:%SZ}"
            command = f"cloudflare-audit reconcile {window} --account {account_id} {how}"
            found.append(Repair(account_id, since, before, end - first, command))
    return sorted(found, key=lambda repair: repair.since, reverse=True)


def summary_of(gaps: Sequence[OpenGap]) -> str:
    """Returns the number of hours, and what is wrong in them."""
    counts = {what: sum(gap.counts[what] for gap in gaps) for what in (gaps[0].counts if gaps else ())}
    wrong = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{hours_with_gaps(len(gaps))}: {wrong or 'an object is broken, or in the wrong place'}"


def hours_with_gaps(count: int) -> str:
    """Returns a number of hours in words."""
    return "1 hour has a gap" if count == 1 else f"{count:,} hours have gaps"
