"""A gap that was found is seen until it is repaired: by doctor, status and Prometheus."""

import re
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers.commands import Finished, wait_until
from pipelines.lake.partitions import HOUR
from pipelines.loop.report import Report
from pipelines.proof.gaps import repairs_of, summary_of
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.status import OpenGap
from simulator.api import Api
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at
from tests.stores import Stores
from tests.watching import watched_loop

Command = Callable[..., Finished]
Poll = Callable[..., Report]

DOCTOR, STATUS, RECONCILE = "pipelines/doctor.py", "pipelines/status.py", "pipelines/reconcile.py"
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())
GAUGE = "cloudflare_audit_gap_hours"


@pytest.fixture
def deleted(api: Api, poll: Poll, stores: Stores) -> int:
    """A day with an event a minute, of which somebody has deleted those of three hours in the warehouse."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(minutes=number)) for number in range(24 * 60)])
    poll()
    stores.query(
        f"DELETE FROM {{schema}}.audit_logs WHERE timestamp >= '{DAY + 3 * HOUR}' AND timestamp < '{DAY + 6 * HOUR}'"
    )
    return 180


def _line(done: Finished, check: str) -> str:
    (line,) = [line for line in done.out.splitlines() if line.split()[1] == check]
    return line


def _command_in(text: str) -> tuple[str, ...]:
    """The command that somebody would paste."""
    found = re.search(r"cloudflare-audit (reconcile [^);\n]*)", text)
    assert found, text
    return ("-m", "cloudflare_audit", *shlex.split(found[1]))


@pytest.mark.integration
def test_a_gap_is_seen_until_it_is_repaired_and_the_command_is_the_one_that_repairs(
    command: Command, deleted: int
) -> None:
    """By doctor and status alike; the command is run as it is shown."""
    found = command(RECONCILE, *WINDOW)
    assert found.code == 3, found.err

    doctor, status, as_json = command(DOCTOR), command(STATUS), command(STATUS, "--json")
    repaired = command(*_command_in(doctor.out))
    after, status_after = command(DOCTOR), command(STATUS, "--json")

    said = f"3 hours have gaps: {deleted} events missing in the warehouse"
    assert (doctor.code, _line(doctor, "gaps").startswith("fail")) == (1, True), doctor.out
    assert said in _line(doctor, "gaps")
    assert said in status.out
    assert _command_in(status.out) == _command_in(doctor.out)
    assert as_json.report["warehouse"]["streams"][0]["hours_with_gaps"] == 3
    (repair,) = as_json.report["warehouse"]["repairs"]
    assert (repair["hours"], _command_in(repair["command"])) == (3, _command_in(doctor.out))
    assert repaired.code == 0, repaired.err
    assert (after.code, _line(after, "gaps")[:4].strip()) == (0, "ok"), after.out
    assert status_after.report["warehouse"]["repairs"] == []
    assert status_after.report["warehouse"]["streams"][0]["hours_with_gaps"] == 0


@pytest.mark.integration
def test_a_gap_of_an_account_that_is_not_read_any_more_is_repaired_without_the_api(
    command: Command, deleted: int
) -> None:
    """From the lake; a gap a year old is seen as well as one of yesterday."""
    assert command(RECONCILE, *WINDOW).code == 3
    other = {"CLOUDFLARE_ACCOUNT_ID": OTHER_ACCOUNT}

    doctor = command(DOCTOR, **other)
    repaired = command(*_command_in(doctor.out), **other)

    assert f"{deleted} events missing in the warehouse" in _line(doctor, "gaps")
    assert "--without-api" in _command_in(doctor.out)
    assert repaired.code == 0, repaired.err
    assert command(DOCTOR, **other).code == 0


@pytest.mark.integration
@pytest.mark.usefixtures("deleted")
def test_what_another_process_finds_and_repairs_is_in_the_metrics(
    command: Command, environment: Mapping[str, str], stores: Stores, tmp_path: Path
) -> None:
    """The gauge is of `audit_completeness`; where that cannot be read it stays, and the loop goes on."""
    with watched_loop(environment, tmp_path) as loop:
        wait_until(lambda: loop.value(GAUGE) == 0)
        assert command(RECONCILE, *WINDOW).code == 3
        wait_until(lambda: loop.value(GAUGE, account=ACCOUNT, version="v1") == 3)
        stores.query("ALTER TABLE {schema}.audit_completeness RENAME TO away")
        wait_until(lambda: "gaps.not_read" in (tmp_path / "loop.log").read_text())
        ready, kept = loop.get("/readyz"), loop.value(GAUGE)
        stores.query("ALTER TABLE {schema}.away RENAME TO audit_completeness")
        assert command(RECONCILE, *WINDOW, "--repair").code == 0
        wait_until(lambda: loop.value(GAUGE) == 0)

    assert (ready.status_code, kept) == (200, 3)


@pytest.mark.integration
def test_open_gaps_cost_what_there_are_not_the_history(poll: Poll, stores: Stores) -> None:
    """With 300,000 checks, 40 gaps and 20 of them open, some hundred pages are read, with or without statistics."""
    poll()
    of = f"'{ACCOUNT}', 'v1', date_trunc('hour', now()) - n * INTERVAL '1 hour'"
    for found, numbers, at in (
        ("complete", "generate_series(1, 300000)", "now() - INTERVAL '2 hours'"),
        ("gap", "generate_series(1000, 200000, 5000)", "now() - INTERVAL '1 hour'"),
        ("complete", "generate_series(1000, 200000, 10000)", "now()"),
    ):
        check = f"SELECT {of}, {at}, '{found}', 1, 1, 1, 5, 0, 0 FROM {numbers} AS n"
        stores.query(f"INSERT INTO {{schema}}.audit_completeness {check}")
    (sql,) = sections_of("health.sql", schema=stores.schema)["open gaps"]

    plans = [stores.plan(sql)]
    stores.query("ANALYZE {schema}.audit_completeness")
    plans.append(stores.plan(sql))

    assert len(stores.query(sql)) == 20
    for plan in plans:
        assert "Seq Scan" not in plan, plan
        assert max(int(number) for number in re.findall(r"shared hit=(\d+)", plan)) < 500, plan


def _gap(hour: datetime, **changes: Any) -> OpenGap:
    counts = {"events missing in the warehouse": 2, "events missing in the lake": 0}
    return OpenGap(Stream(ACCOUNT, "v1"), hour, counts)._replace(**changes)


def test_hours_close_to_each_other_are_repaired_at_once_and_others_by_themselves() -> None:
    """The newest first; both versions of an account together, accounts apart."""
    near, far = [DAY, DAY + 5 * HOUR, DAY + 29 * HOUR], [DAY - timedelta(days=400)]
    gaps = [_gap(hour) for hour in (*near, *far)]
    gaps += [_gap(DAY, stream=Stream(ACCOUNT, "v2")), _gap(DAY + HOUR, stream=Stream(OTHER_ACCOUNT, "v1"))]

    repairs = repairs_of(gaps, lambda account_id: account_id == ACCOUNT)

    assert [(one.account_id, one.since, one.before, one.hours) for one in repairs] == [
        (OTHER_ACCOUNT, DAY + HOUR, DAY + 2 * HOUR, 1),
        (ACCOUNT, DAY, DAY + 30 * HOUR, 3),
        (ACCOUNT, far[0], far[0] + HOUR, 1),
    ]
    assert ["--without-api" in one.command for one in repairs] == [True, False, False]


def test_a_summary_names_what_is_wrong() -> None:
    """Counted over all hours; an object that is broken has no count."""
    assert summary_of([_gap(DAY), _gap(DAY + HOUR)]) == "2 hours have gaps: 4 events missing in the warehouse"
    assert summary_of([_gap(DAY, counts={})]) == "1 hour has a gap: an object is broken, or in the wrong place"
