"""The time that events took to come, and the safety lag that follows. `[lag]` in `sql/health.sql` says which count."""

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

RESERVE = 1.5
"""Lag recommended per lag measured: a bad day of the API's is worse than the last week."""
LEAST_SECONDS = 300
"""Others measured up to 450 s on this API: a quiet week proves nothing shorter."""
LEAST_EVENTS = 100
"""A stream with fewer is not judged: one or two events say nothing of the others."""
LONGEST_SECONDS = 86_400
"""Events that come later than a day are left to the sweep."""


class MeasuredLag(NamedTuple):
    """The seconds from the time of a stream's events to their load."""

    events: int = 0  # that count
    median: float = 0.0
    nearly_all: float = 0.0  # 999 of 1,000 came sooner
    late: int = 0  # found by the sweep alone: the cursor was further past them than the safety lag


def recommended_seconds(measured: Iterable[MeasuredLag]) -> int | None:
    """The safety lag for all of these streams, in whole minutes; None: too little was measured."""
    longest = [lag.nearly_all for lag in measured if lag.events >= LEAST_EVENTS]
    if not longest:
        return None
    wanted = min(max(RESERVE * max(longest), LEAST_SECONDS), LONGEST_SECONDS)
    return math.ceil(wanted / 60) * 60


def is_too_short(safety_lag: timedelta, measured: MeasuredLag) -> bool:
    """True if more than one event in 1,000 came later."""
    return measured.events >= LEAST_EVENTS and measured.nearly_all > safety_lag.total_seconds()


def too_little(events: int) -> str:
    """The reason why nothing is recommended."""
    return f"{events or 'no'} events were measured in the last week: too few to judge it by"
