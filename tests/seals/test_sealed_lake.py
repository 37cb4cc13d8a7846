"""What the loop seals, and what verify.py says of it."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.s3_gate import gate_before
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.failures import Failures
from pipelines.loop.report import Flow, Report
from pipelines.seals.pure.seal_format import Seal
from pipelines.seals.sealer import Sealed, Sealer
from pipelines.settings.settings import PROJECT_ROOT, read_environment, read_settings
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT

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


@dataclass
class Hours:
    """A loop's sealer, hour by hour, in this process."""

    now: datetime
    sealer: Sealer
    report: Report

    def pass_one(self) -> list[Seal]:
        """Lets an hour pass in which every stream was read, and seals."""
        self.now += timedelta(hours=1)
        stream = Stream(ACCOUNT, "v1")
        self.report._flows["lake", stream] = Flow(succeeded=self.now)  # noqa: SLF001  # as the loop's thread does
        ended = Future[Sealed]()
        ended.set_result(self.sealer.work({stream: BEGIN}, threading.Event()))
        self.sealer.note(ended)
        return ended.result().seals


@contextmanager
def hours_of(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hours]:
    """A sealer with the settings of a lake that was sealed by another process until now."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    now = datetime.now(UTC)
    settings = read_settings(read_environment(), now=now)
    report = Report(Failures(settings))
    hours = Hours(now, Sealer(settings, lambda: hours.now, report), report)
    yield hours
    monkeypatch.undo()
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))


def test_a_loop_seals_hour_after_hour_and_looks_at_all_once_a_day(
    sealed_lake: SealedLake, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seal an hour with that hour alone; an object that is gone is an alarm within a day, and stays one."""
    first = len(sealed_lake.seals)
    sealed_lake.objects[2].unlink()
    with hours_of(environment, monkeypatch) as hours:
        made = [hours.pass_one() for _ in range(25)]

        assert hours.report.seal_alarms["sealer"] == 1
        assert hours.report.last_seal == hours.now
    assert [len(seals) for seals in made] == [1] * 25
    assert {len([entry for entry in seal.entries if "seal" in entry]) for (seal,) in made[1:]} == {1}
    assert len(sealed_lake.seals) == first + 25
    assert sealed_lake.verdicts() >= {"deleted"}


def test_an_idle_account_costs_two_writes_an_hour(
    unsealed_lake: SealedLake, environment: dict[str, str], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seal, and the checkpoint again; all else is read."""
    with gate_before(bucket.endpoint) as gate:
        environment |= bucket.settings("idle") | {"S3_ENDPOINT": gate.url}
        unsealed_lake.init()
        unsealed_lake.run()
        with hours_of(environment, monkeypatch) as hours:
            hours.pass_one()
            gate.requests.clear()
            assert [len(hours.pass_one()) for _ in range(6)] == [1] * 6

        actions = Counter(request.action for request in gate.requests)
        assert 0 < actions["s3:PutObject"] <= 2 * 6
        assert actions.keys() <= {"s3:PutObject", "s3:GetObject", "s3:ListBucket"}
        assert actions["s3:GetObject"] <= 6 * 6
