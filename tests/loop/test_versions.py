"""v1 and v2 by default: a version that an account is refused is reported once, and does not fail the other."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished, wait_until
from pipelines.cli.main_job import run
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT, read_environment, read_settings
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread
from tests.rows import rows
from tests.stores import Stores
from tests.watching import watched_loop

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("both_versions")]

Poll = Callable[..., Report]
Command = Callable[..., Finished]

FORBIDDEN = '{"errors":[{"code":10000,"message":"Authentication error"}],"success":false}'
NO_ROUTE = '{"errors":[{"code":7003,"message":"Could not route to /accounts/x/logs/audit"}],"success":false}'
NO_PLAN = '{"errors":[{"code":1004,"message":"Audit Logs v2 is not available for this account"}],"success":false}'
BAD_SINCE = '{"errors":[{"message":"Invalid format for parameter since"}],"success":false}'
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=5)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=2)).isoformat())


def refuse(api: Api, version: str, status: int = 403, body: str = FORBIDDEN, account_id: str = ACCOUNT) -> Fault:
    """From now on, the account is refused this version."""
    api.faults.append(Fault(account_id=account_id, version=version, status=status, body=body, times=None))
    return api.faults[-1]


def lines_of(done: Finished, event: str) -> list[str]:
    """The lines of the log with this event."""
    return [line for line in done.err.splitlines() if f" {event} " in line]


@pytest.mark.parametrize(("version", "other"), rows(("v2", "v1"), long=[("v1", "v2")]))
@pytest.mark.parametrize(("status", "body"), [(403, FORBIDDEN), (404, NO_ROUTE), (400, NO_PLAN)], ids=[403, 404, 400])
def test_a_version_that_is_refused_is_told_once_and_fails_nothing(
    api: Api, command: Command, stores: Stores, version: str, other: str, status: int, body: str
) -> None:
    """Exit 0, with a warning that says what to do; what can be read is in both stores."""
    events = spread(20, ago(hours=2), ago(minutes=1), version=other)
    api.world.add(ACCOUNT, other, events)
    refuse(api, version, status, body)

    done = command("pipelines/run.py", "--once", "--json")

    (told,) = lines_of(done, "version.refused")
    assert done.code == 0, done.err
    assert f"WARNING version.refused account={ACCOUNT} version={version} " in told
    assert f"CLOUDFLARE_API_VERSION={other} " in told
    assert not lines_of(done, "account.failed")
    assert (done.report["failed_accounts"], list(done.report["refused_versions"])) == (
        {},
        [f"audit_logs_{version}_{ACCOUNT}"],
    )
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_the_result_for_people_says_so_too_and_a_version_that_was_asked_for_by_name_is_no_other_matter(
    api: Api, command: Command
) -> None:
    """A refused version does not fail a run that names both, but fails one that names it alone."""
    refuse(api, "v2")

    done = command("pipelines/run.py", "--once", CLOUDFLARE_API_VERSION="v1,v2")
    alone = command("pipelines/run.py", "--once", CLOUDFLARE_API_VERSION="v2")

    assert (done.code, alone.code) == (0, 1), done.err + alone.err
    assert "v2 is refused for 1 of the accounts" in done.out
    assert "failed" not in done.out
    assert "1 failed, see the log" in alone.out


def test_an_account_that_is_refused_every_version_has_failed(api: Api, command: Command, stores: Stores) -> None:
    """An account without any version has failed, and another account of the run is complete in both."""
    events = [*spread(5, ago(hours=2), ago(minutes=1)), *spread(5, ago(hours=2), ago(minutes=1), version="v2")]
    api.world.add(OTHER_ACCOUNT, "v1", events[:5])
    api.world.add(OTHER_ACCOUNT, "v2", events[5:])
    refuse(api, "v1")
    refuse(api, "v2")

    done = command("pipelines/run.py", "--once", "--json", CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert done.code == 1
    assert sorted(done.report["failed_accounts"]) == [f"audit_logs_{v}_{ACCOUNT}" for v in ("v1", "v2")]
    assert done.report["refused_versions"] == {}
    assert (len(lines_of(done, "account.failed")), lines_of(done, "version.refused")) == (1, [])
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.parametrize(("status", "body"), rows((400, BAD_SINCE), (500, "{}"), long=[(429, "{}"), (200, "<html>")]))
def test_what_is_no_refusal_fails_the_account_in_any_version(
    api: Api, command: Command, status: int, body: str
) -> None:
    """A wrong request, a spent budget, a server in trouble: the next poll has to bring it."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=2), ago(minutes=1)))
    fault = refuse(api, "v2", status, body)
    fault.headers["Retry-After"] = "1"

    done = command("pipelines/run.py", "--once", "--json", CLOUDFLARE_MAX_RETRIES="0")

    assert done.code == 1, done.err
    assert f"audit_logs_v2_{ACCOUNT}" in done.report["failed_accounts"]
    assert done.report["refused_versions"] == {}
    assert not lines_of(done, "version.refused")


def test_a_loop_is_ready_without_the_version_and_the_metrics_show_it(
    api: Api, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """The refusal is one line; an account that is refused both versions keeps the loop from being ready."""
    refuse(api, "v2")

    with watched_loop(environment, tmp_path) as loop:
        wait_until(lambda: loop.get("/readyz").ok)
        wait_until(lambda: loop.value("cloudflare_audit_account_refused", version="v2") == 1)
        ready = loop.get("/readyz")
        refused = [loop.value("cloudflare_audit_account_refused", version=version) for version in ("v1", "v2")]
        up = [loop.value("cloudflare_audit_account_up", version=version) for version in ("v1", "v2")]
        told = (tmp_path / "loop.log").read_text()

    assert ready.text == "ok\n"
    assert (refused, up) == ([0, 1], [1, 0])
    assert told.count("version.refused") == 1
    assert "account.failed" not in told


@contextmanager
def loop_of(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loop in a thread of this process, with a short interval."""
    for name, value in {**environment, "POLL_INTERVAL_SECONDS": "0.2"}.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    settings, stop = read_settings(read_environment(), now=datetime.now(UTC)), threading.Event()
    thread = threading.Thread(target=lambda: run(settings, once=False, stop=stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.long
def test_a_version_that_is_granted_later_is_taken_up_by_itself(
    api: Api,
    environment: Mapping[str, str],
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A version granted later is loaded with its last 30 days; until then it is tried, and reported once."""
    monkeypatch.setattr("pipelines.loop.schedule.REFUSED_PAUSE_SECONDS", 1)
    caplog.set_level("INFO", "audit")
    of_v1 = spread(20, ago(days=29), ago(minutes=1))
    of_v2 = spread(20, ago(days=29), ago(minutes=1), version="v2")
    api.world.add(ACCOUNT, "v1", of_v1)
    api.world.add(ACCOUNT, "v2", of_v2)
    refusal = refuse(api, "v2")

    with loop_of(environment, monkeypatch):
        wait_until(lambda: len([r for r in api.requests if r.version == "v2"]) >= 4)
        before, tries = stores.ids(), [r.at for r in api.requests if r.version == "v2"]
        api.faults.remove(refusal)
        wait_until(lambda: len(stores.lake_ids()) == len(stores.warehouse_ids()) == 40)

    told = [line.split()[0] for line in caplog.messages if line.startswith(("version.", "account."))]
    assert before == (sorted(ids(of_v1)),) * 2
    assert min(later - earlier for earlier, later in pairwise(tries)) >= timedelta(seconds=1)
    assert stores.ids() == (sorted(ids([*of_v1, *of_v2])),) * 2
    assert told == ["version.refused", "version.granted"]


def test_the_doctor_warns_of_a_refused_version_and_fails_an_account_that_is_refused_both(
    api: Api, command: Command
) -> None:
    """Its exit code says what the loop's would."""
    refuse(api, "v2", 404, NO_ROUTE)
    one = command("pipelines/doctor.py", "--json")
    refuse(api, "v1")
    both = command("pipelines/doctor.py", "--json")

    found = [[json.loads(line) for line in done.out.splitlines()] for done in (one, both)]
    accounts = [[line for line in lines if line["check"] == "account"] for lines in found]
    assert (one.code, both.code) == (0, 1), one.out
    assert [[line["status"] for line in lines] for lines in accounts] == [["ok", "warn"], ["fail", "fail"]]
    assert "CLOUDFLARE_API_VERSION=v1 " in accounts[0][1]["hint"]


def test_backfill_and_comparison_go_on_with_what_can_be_read_and_say_so(
    api: Api, command: Command, stores: Stores
) -> None:
    """Again, too: days that are there already need no question to the API."""
    events = spread(48, DAY, DAY + timedelta(days=2))
    api.world.add(ACCOUNT, "v1", events)
    refuse(api, "v2")

    filled = command("pipelines/backfill.py", *WINDOW, "--json")
    again = command("pipelines/backfill.py", *WINDOW)
    compared = command("pipelines/reconcile.py", *WINDOW, "--json")
    for_people = command("pipelines/reconcile.py", *WINDOW)

    done = (filled, again, compared, for_people)
    assert [one.code for one in done] == [0] * 4, "".join(one.err for one in done)
    assert [len(lines_of(one, "version.refused")) for one in done] == [1] * 4
    for report in (filled.report, compared.report):
        assert (report["failed_accounts"], list(report["refused_versions"])) == ({}, [f"audit_logs_v2_{ACCOUNT}"])
    assert (compared.report["gaps"], compared.report["hours"]) == ([], 48)
    assert "2 of 4 days were there; v2 is refused for 1 of the accounts" in again.out
    assert "no gap found; v2 is refused for 1 of the accounts" in for_people.out
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_commands_fail_where_every_version_is_refused(api: Api, command: Command) -> None:
    """The commands exit with 1, and the result names each of the two versions."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(minutes=1))])
    assert command("pipelines/run.py", "--once").code == 0  # there is a lake to compare
    refuse(api, "v1")
    refuse(api, "v2")

    done = [command(f"pipelines/{name}.py", *WINDOW, "--json") for name in ("backfill", "reconcile")]

    assert [one.code for one in done] == [1, 1]
    assert [sorted(one.report["failed_accounts"]) for one in done] == [
        [f"audit_logs_{version}_{ACCOUNT}" for version in ("v1", "v2")]
    ] * 2


def test_a_broken_object_is_made_anew_though_a_version_of_it_is_refused_by_now(
    api: Api, command: Command, stores: Stores
) -> None:
    """Events that the API no longer shows are taken from the warehouse."""
    events = [event_at(DAY + timedelta(minutes=1), version=version) for version in ("v1", "v2")]
    for version, event in zip(("v1", "v2"), events, strict=True):
        api.world.add(ACCOUNT, version, [event])
    filled = command("pipelines/backfill.py", *WINDOW)
    (path,) = (stores.lake / "cloudflare/audit_logs").rglob("*.parquet")
    path.write_bytes(b"broken")
    refuse(api, "v2")

    repaired = command("pipelines/reconcile.py", *WINDOW, "--repair", "--json")

    assert (filled.code, repaired.code) == (0, 0), filled.err + repaired.err
    assert repaired.report["gaps"] == []
    assert stores.ids() == (sorted(ids(events)),) * 2
