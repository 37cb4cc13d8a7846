"""The lake gives back what it holds: any window, each event once, whatever is broken in it."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at, ids, spread
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
REHYDRATED = "SELECT event_id, xmin::text AS written FROM {schema}.audit_logs_rehydrated ORDER BY 1"


def window(since: datetime = DAY, before: datetime = DAY + timedelta(days=2)) -> list[str]:
    """The options of a window."""
    return ["--since", since.isoformat(), "--before", before.isoformat()]


@pytest.fixture(params=rows("bucket", long=["folder"]))
def lake(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> str:
    """Both kinds of lake; the tests without this have a folder."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment |= bucket.settings(f"rehydrate/{tmp_path.name}")
    return str(request.param)


@pytest.mark.usefixtures("lake")
def test_a_window_comes_back_once_however_often_it_is_asked_for(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """To the microsecond, payload and all; the second time writes nothing."""
    events = spread(60, DAY, DAY + timedelta(days=2))
    edge = event_at(DAY + timedelta(hours=30), id="edge")
    api.world.add(ACCOUNT, "v1", [*events, edge])
    poll()
    options = window(DAY + timedelta(hours=10), edge.time)
    wanted = ids([event for event in events if DAY + timedelta(hours=10) <= event.time < edge.time])

    first = command("pipelines/rehydrate.py", *options, "--json")
    written = stores.query(REHYDRATED)
    second = command("pipelines/rehydrate.py", *options, "--json")

    assert (first.code, first.report["events"], first.report["broken"]) == (0, len(wanted), []), first.err
    assert {row["event_id"] for row in written} == wanted
    assert (second.code, stores.query(REHYDRATED)) == (0, written)
    differing = stores.query(
        "SELECT count(*) AS n FROM {schema}.audit_logs_rehydrated AS r JOIN {schema}.audit_logs AS a"
        ' USING (account_id, "timestamp", event_id, api_version) WHERE to_jsonb(r) != to_jsonb(a)'
    )
    assert differing == [{"n": 0}]
    both = stores.query("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM {schema}.audit_logs_all")
    assert both == [{"n": 61, "ids": 61}]


@pytest.mark.usefixtures("lake", "both_versions")
def test_what_the_warehouse_lost_is_in_the_view_of_all(api: Api, poll: Poll, command: Command, stores: Stores) -> None:
    """The use of it: the retention has deleted, someone asks. Of both versions."""
    of_version = {version: spread(40, DAY, DAY + timedelta(days=2), version=version) for version in ("v1", "v2")}
    for version, its in of_version.items():
        api.world.add(ACCOUNT, version, its)
    events = [*of_version["v1"], *of_version["v2"]]
    poll()
    stores.query('DELETE FROM {schema}.audit_logs WHERE "timestamp" < \'' + str(DAY + timedelta(days=1)) + "'")

    done = command("pipelines/rehydrate.py", *window())

    assert done.code == 0, done.err
    found = stores.query("SELECT event_id FROM {schema}.audit_logs_all")
    assert sorted(row["event_id"] for row in found) == sorted(ids(events))


@pytest.mark.usefixtures("lake")
def test_a_dry_run_says_what_would_be_read_and_drop_takes_it_out(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """Only the accounts that are named are brought back."""
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(24, DAY, DAY + timedelta(days=1)))
    both = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}
    poll(**both)

    dry = command("pipelines/rehydrate.py", *window(), "--account", ACCOUNT, "--dry-run", "--json", **both)
    after_dry = stores.query(REHYDRATED)
    command("pipelines/rehydrate.py", *window(), **both)
    filled = len(stores.query(REHYDRATED))
    dropped = command("pipelines/rehydrate.py", *window(), "--account", ACCOUNT, "--drop", "--json", **both)

    assert (dry.report["objects"], dry.report["events"], after_dry) == (24, 24, [])
    assert dry.report["bytes"] > 24 * 100
    assert filled == 48
    assert dropped.report == {"dropped": 24}
    left = stores.query("SELECT DISTINCT account_id FROM {schema}.audit_logs_rehydrated")
    assert left == [{"account_id": OTHER_ACCOUNT}]


@pytest.mark.usefixtures("lake")
def test_a_missing_hour_is_no_error(api: Api, poll: Poll, command: Command) -> None:
    """Most hours of most accounts have no event, and no object."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(hours=5))])
    poll()

    done = command("pipelines/rehydrate.py", *window(), "--json")

    assert (done.code, done.report["objects"], done.report["events"]) == (0, 1, 1)


@pytest.mark.parametrize(
    "body", rows(b"PAR1 and then something else, but long enough PAR1", long=[b"not parquet", b""])
)
def test_a_broken_object_is_named_and_the_rest_goes_on(
    api: Api, poll: Poll, command: Command, stores: Stores, body: bytes
) -> None:
    """Exit 1 at the end."""
    api.world.add(ACCOUNT, "v1", spread(48, DAY, DAY + timedelta(days=2)))
    poll()
    broken = sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))[7]
    broken.write_bytes(body)

    done = command("pipelines/rehydrate.py", *window(), "--json")

    assert done.code == 1
    assert done.report["broken"] == [str(broken.relative_to(stores.lake / "cloudflare"))]
    assert f"{broken.relative_to(stores.lake / 'cloudflare')}" in done.err
    assert "Traceback" not in done.err
    assert len(stores.query(REHYDRATED)) == done.report["events"] == 47


def test_an_event_that_is_twice_in_its_object_comes_back_once(
    api: Api, poll: Poll, command: Command, stores: Stores, lake_object: Callable[..., None]
) -> None:
    """An object that another tool wrote with doubles brings each event back once."""
    api.world.add(ACCOUNT, "v1", spread(10, DAY, DAY + timedelta(hours=1)))
    poll()
    lake_object(doubled=True)

    done = command("pipelines/rehydrate.py", *window())

    assert done.code == 0, done.err
    assert len(stores.query(REHYDRATED)) == 10


@pytest.mark.wide
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--since", "2026-11-02", "--before", "2026-11-01"], 2, "has to be before"),
        (["--since", "yesterday", "--before", "2026-11-01"], 2, "is not a time: write it as"),
        (["--since", "2026-11-01", "--before", "2026-11-02", "--account", "a/b"], 2, "is not one account id"),
        (["--since", "2026-11-01", "--before", "2026-11-02", "--account", "abc"], 2, "unknown account abc"),
        (["--since", "2999-11-01", "--before", "2999-11-02"], 2, "nothing is there yet"),
        (["--since", "2026-11-01", "--before", "2026-11-02", "--drop", "--dry-run"], 2, "not allowed with"),
        (["--since", "2026-11-01"], 2, "--before"),
        (["--since", "2026-11-01", "--before", "2026-11-02"], 0, "2026-11-01 has no time zone: taken as UTC"),
    ],
)
def test_wrong_input_is_told(api: Api, poll: Poll, command: Command, options: list[str], code: int, said: str) -> None:
    """One message, no traceback, nothing half written."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY)])
    poll()

    done = command("pipelines/rehydrate.py", *options)

    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_lake_that_is_not_there_is_told(command: Command, bucket: Bucket) -> None:
    """A folder that nobody has written: exit 1. A bucket that does not answer: exit 75, try again later."""
    nowhere = {**bucket.settings("x"), "S3_ENDPOINT": "http://127.0.0.1:9"}

    folder = command("pipelines/rehydrate.py", *window())
    dead = command("pipelines/rehydrate.py", *window(), **nowhere)

    assert folder.code == 1
    assert re.search(r"there is no lake at .*check S3_BUCKET", folder.err)
    assert dead.code == 75
    assert "the lake is not available" in dead.err
    assert "Traceback" not in folder.err + dead.err


def test_the_progress_and_the_result_are_apart(api: Api, poll: Poll, command: Command) -> None:
    """Results on stdout, all else on stderr."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY)])
    poll()

    done = command("pipelines/rehydrate.py", *window(), "--json")

    assert json.loads(done.out) == {**done.report, "dry_run": False}
