"""What the loop seals, and what verify.py says of it."""

from datetime import timedelta

import pytest

from .conftest import BEGIN, HOURS
from .sealed_lake import SealedLake

pytestmark = pytest.mark.integration


def test_each_closed_hour_is_sealed_with_or_without_events(sealed_lake: SealedLake) -> None:
    """In order, with the number of its events, each once, and not before it was closed for an hour and a lag."""
    entries = [entry for entry in sealed_lake.entries() if "seal" in entry]

    assert [entry["events"] for entry in entries[:HOURS]] == [2] * HOURS
    assert {entry["events"] for entry in entries[HOURS:]} == {0}
    hours = [entry["hour"] for entry in entries]
    assert hours == [(BEGIN + timedelta(hours=n)).isoformat().replace("+00:00", "Z") for n in range(len(hours))]
    assert 10 <= len(hours) <= 11
    assert sealed_lake.verdicts() == set()
    assert sealed_lake.verdicts("--quick") == set()
