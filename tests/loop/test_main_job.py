"""One poll, two loads: what the API shows is in both destinations, each event once."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, wait_until
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread
from tests.stores import Stores

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("both_versions")]

Poll = Callable[..., Report]
Command = Callable[..., Finished]


def test_every_visible_event_is_in_both_destinations_once(api: Api, poll: Poll, stores: Stores) -> None:
    """The promise, for one poll."""
    events = spread(250, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    poll()

    assert stores.ids() == (sorted(ids(events)), sorted(ids(events)))


def test_a_second_poll_with_nothing_new_changes_nothing(api: Api, poll: Poll, stores: Stores) -> None:
    """No row, no object, no file of dlt's is written, and dlt is not started."""
    api.world.add(ACCOUNT, "v1", spread(50, ago(minutes=14), ago(minutes=1)))
    poll()
    files = {path: path.stat().st_mtime_ns for path in stores.lake.rglob("*") if path.is_file()}
    rows = stores.query("SELECT xmin::text, ctid::text, event_id FROM {schema}.audit_logs ORDER BY 3")
    loads = stores.query("SELECT count(*) FROM {schema}._dlt_loads")

    report = poll()

    assert not report.loads["warehouse"]
    assert not report.loads["lake"]
    assert {path: path.stat().st_mtime_ns for path in stores.lake.rglob("*") if path.is_file()} == files
    assert stores.query("SELECT xmin::text, ctid::text, event_id FROM {schema}.audit_logs ORDER BY 3") == rows
    assert stores.query("SELECT count(*) FROM {schema}._dlt_loads") == loads


def test_an_idle_cycle_with_two_accounts_in_two_versions_makes_four_requests(api: Api, poll: Poll) -> None:
    """One pass over the API serves both pipelines."""
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(20, ago(minutes=30), ago(minutes=1)))
    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")
    api.requests.clear()

    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert len(api.requests) == 4


def test_dlts_own_names_win_over_the_settings(
    api: Api, command: Command, environment: Mapping[str, str], tmp_path: Path, postgres: PostgresSettings
) -> None:
    """Dlt's own settings work as in any other project."""
    events = spread(5, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    uri = f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{postgres.database}"

    done = command(
        *("pipelines/run.py", "--once"),
        PG_HOST="192.0.2.1",
        DESTINATION__POSTGRES__CREDENTIALS=uri,
        DESTINATION__FILESYSTEM__BUCKET_URL=(tmp_path / "elsewhere").as_uri(),
    )

    elsewhere = Stores(postgres, environment["PG_SCHEMA"], tmp_path / "elsewhere")
    assert done.code == 0, done.err
    assert elsewhere.ids() == (sorted(ids(events)),) * 2


def test_an_account_of_both_versions_has_the_events_of_both(api: Api, poll: Poll, stores: Stores) -> None:
    """They are different records: the same id in both is two events."""
    time = ago(minutes=5)
    api.world.add(ACCOUNT, "v1", [event_at(time, id="same")])
    api.world.add(ACCOUNT, "v2", [event_at(time, id="same", version="v2")])

    poll()

    assert [row["api_version"] for row in stores.warehouse()] == ["v1", "v2"]
    assert stores.ids() == (["same", "same"], ["same", "same"])


def test_an_event_that_becomes_visible_within_the_lag_is_found_by_a_later_poll(
    api: Api, poll: Poll, stores: Stores
) -> None:
    """Each window starts the safety lag before the newest event held."""
    newest, late = event_at(ago(hours=2)), event_at(ago(hours=2, minutes=14))
    api.world.add(ACCOUNT, "v1", [newest])
    poll()
    api.world.add(ACCOUNT, "v1", [late])

    report = poll()

    assert report.new == {"warehouse": 1, "lake": 1}
    assert stores.ids() == (sorted(ids([newest, late])),) * 2


def test_the_loop_loads_what_appears_while_it_runs_and_ends_on_sigterm(
    api: Api, environment: Mapping[str, str], stores: Stores
) -> None:
    """The running step finishes, and the process exits with 0."""
    now = datetime.now(UTC)
    events = spread(20, now, now + timedelta(seconds=4))
    api.world.add(ACCOUNT, "v1", events)
    loop = subprocess.Popen(
        [sys.executable, "pipelines/run.py"],
        env={**os.environ, **environment, "POLL_INTERVAL_SECONDS": "0.5"},
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: stores.ids() == (sorted(ids(events)),) * 2)
    finally:
        loop.terminate()
        _, err = loop.communicate(timeout=120)

    assert loop.returncode == 0, err
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_wrong_settings_are_all_reported_and_nothing_is_touched(
    command: Command, environment: Mapping[str, str]
) -> None:
    """Exit 2, a hint for each, no folder made, no request sent."""
    done = command(
        "pipelines/run.py", "--once", CLOUDFLARE_API_TOKEN=None, CLOUDFLARE_PER_PAGE="0", POLL_INTERVAL_SECONDS="soon"
    )

    assert done.code == 2
    for name in ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_PER_PAGE", "POLL_INTERVAL_SECONDS"):
        assert name in done.err
    assert not Path(environment["DATA_DIR"]).exists()
