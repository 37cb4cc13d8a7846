"""Once a week the loop looks at the whole lake: what it finds reaches log and metric, and ends nothing."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime

import pytest

from pipelines.loop.failures import Failures
from pipelines.loop.report import Report
from pipelines.seals.verification import Verified
from pipelines.seals.weekly_check import CHECK_SECONDS, FIRST_CHECK_SECONDS, WeeklyCheck
from pipelines.settings.settings import read_environment, read_settings

from .sealed_lake import SealedLake

pytestmark = pytest.mark.integration


def test_the_lake_is_looked_at_an_hour_after_the_start_and_once_a_week(
    sealed_lake: SealedLake,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lake that is as it was sealed has no alarm, and an object that is gone is one."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(read_environment(), now=datetime.now(UTC))
    report, seconds = Report(Failures(settings)), [0.0]
    check = WeeklyCheck(settings, lambda: datetime.now(UTC), report, lambda: seconds[0])

    def look() -> None:
        ended = Future[Verified]()
        try:
            ended.set_result(check.work({}, threading.Event()))
        except OSError as error:
            ended.set_exception(error)
        check.note(ended)

    assert not check.is_due
    seconds[0] += FIRST_CHECK_SECONDS
    assert check.is_due
    look()
    assert report.seal_alarms == {"weekly": 0}
    assert not check.is_due
    seconds[0] += CHECK_SECONDS
    assert check.is_due

    sealed_lake.objects[0].unlink()
    look()

    assert report.seal_alarms == {"weekly": 1}
    assert [record.message[:10] for record in caplog.records if record.levelname == "ERROR"] == ["seal.alarm"]
