"""Beside the loop, the log of what is compared has a line where there is something to say, and one for the rest."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, event_at
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=5)


@pytest.fixture(autouse=True)
def _compared_at_a_day(environment: dict[str, str]) -> None:
    environment |= {"RECONCILE_AFTER_HOURS": "24", "INITIAL_CHECKPOINT": DAY.isoformat()}


def test_hours_without_events_are_one_line(
    api: Api, poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """Of four empty days and one with three events; the table has every hour, and no copy is said to be removed."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(days=2, hours=9, minutes=n)) for n in range(3)])
    caplog.set_level("INFO")

    poll()

    lines = [record.message for record in caplog.records if record.message.startswith(("reconcile.", "compact."))]
    compared = [line for line in lines if line.startswith("reconcile.compared")]
    (empty,) = [line for line in lines if line.startswith("reconcile.empty")]
    (rows,) = stores.query(
        "SELECT count(*)::int AS hours, sum(api_events)::int AS events FROM {schema}.audit_completeness"
    )
    found = re.search(r"accounts=1 hours=(\d+) since=(\S+) ", empty)
    assert len(compared) == 1, lines
    assert "events=3 gaps=0" in compared[0]
    assert found, empty
    assert datetime.fromisoformat(found[2]) == DAY
    assert rows == {"hours": int(found[1]) + 1, "events": 3}
    assert [line for line in lines if "removed" in line] == []


def test_an_hour_with_a_gap_is_named_though_no_store_has_an_event(
    api: Api, poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """What the API alone shows is something to say."""
    api.world.add(ACCOUNT, "v1", [event_at(datetime.now(UTC) - timedelta(minutes=30))])
    poll()
    stores.query("DELETE FROM {schema}.audit_completeness")
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(hours=9))])
    caplog.set_level("INFO")
    caplog.clear()

    poll()

    gaps = [record.message for record in caplog.records if record.message.startswith("reconcile.gap")]
    assert [f"hour={(DAY + timedelta(hours=9)).isoformat()}" in gap for gap in gaps] == [True]
