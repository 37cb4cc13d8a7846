"""The pages say how the stores are: compared, loaded, empty, or down."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests

from benchmarks.servers.commands import Finished, wait_until
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, encoded, raw_event, spread, v1_tree
from tests.rows import rows
from tests.stores import Stores

from .site.reading import Page, query_of

pytestmark = pytest.mark.integration

Dashboard = Callable[..., Any]


def look(url: str, path: str) -> Page:
    """A page."""
    answer = requests.get(f"{url}{path}", timeout=60)
    return Page(answer.status_code, answer.text)


def test_completeness_and_health_are_told(
    api: Api, poll: Callable[..., Report], command: Callable[..., Finished], stores: Stores, dashboard: Dashboard
) -> None:
    """Hours that were compared, the gap among them; cursors, last loads, quarantine of both destinations."""
    api.world.add(ACCOUNT, "v1", spread(6, ago(days=2), ago(days=2) + timedelta(hours=3)))
    api.world.add(ACCOUNT, "v1", [raw_event(encoded(v1_tree(when="soon")), time=ago(hours=3))])
    poll()
    min(stores.lake.rglob("events.parquet")).unlink()
    window = (f"--since={ago(days=3):%Y-%m-%d}", f"--before={ago(hours=1):%Y-%m-%dT%H:00Z}")
    assert command("pipelines/reconcile.py", *window, "--without-api").code == 3

    with dashboard() as url:
        page = look(url, "/completeness")
        (gap,) = page.rows()
        events = look(url, next(gap["Hour (UTC)"].all("a")).attributes["href"])
        health = look(url, "/health")

    assert (gap["Account"].text, gap["Missing in lake"].text) == (ACCOUNT, gap["Warehouse has"].text)
    assert len(events.rows()) == int(gap["Warehouse has"].text)
    squares = list(page.root.all("a", class_="complete"))
    assert len(squares) >= 40
    assert {"from", "to", "account"} <= query_of(squares[0].attributes["href"]).keys()
    assert len(list(page.root.all("a", class_="gap"))) == 1
    assert health.text.count(f"v1 {ACCOUNT}") == 2
    assert health.text.count("no readable time") == 2


def test_sealed_hours_are_told(
    api: Api,
    environment: dict[str, str],
    command: Callable[..., Finished],
    stores: Stores,
    dashboard: Dashboard,
    tmp_path: Path,
) -> None:
    """How many, the newest, and those that are closed and have no seal; without a key, that nothing is sealed."""
    begin = ago(hours=12).replace(minute=0, second=0, microsecond=0)
    environment |= {"SEAL_KEY_FILE": str(tmp_path / "seal.key"), "INITIAL_CHECKPOINT": begin.isoformat()}
    api.world.add(ACCOUNT, "v1", spread(6, begin, begin + timedelta(hours=3)))
    assert command("pipelines/run.py", "--once", SEAL_KEY_FILE=None).code == 0
    with dashboard() as url:
        unsealed = look(url, "/completeness")
        assert command("pipelines/seal.py", "--init").code == 0
        assert command("pipelines/run.py", "--once").code == 0
        (whole,) = look(url, "/completeness").rows()
        last_but_one = "SELECT max(hour) - interval '1h' FROM {schema}.audit_seals"
        stores.query(f"DELETE FROM {{schema}}.audit_seals WHERE hour = ({last_but_one})")
        (lacking,) = look(url, "/completeness").rows()

    assert "No hour of this time is sealed" in unsealed.text
    assert ACCOUNT in whole["Account"].text
    assert whole["Closed and not sealed"].text == "0"
    assert int(whole["Sealed hours"].text) in {10, 11}
    assert lacking["Closed and not sealed"].text == "1"
    assert int(lacking["Sealed hours"].text) == int(whole["Sealed hours"].text) - 1


def test_empty_stores_say_so(environment: dict[str, str], dashboard: Dashboard) -> None:
    """In one sentence, with what to do."""
    with dashboard() as url:
        for store in ("warehouse", "lake"):
            page = look(url, f"/?store={store}")
            (told,) = [one.text for one in page.root.all("p", role="alert")]

            assert told.startswith(f"the {store} has no events yet")
            assert "start the pipeline: make run" in told
            assert page.status == 503
    assert environment["PG_PASSWORD"] not in page.html


@pytest.mark.parametrize("path", rows("/?", "/health?", long=["/completeness?", "/events?", "/tokens?"]))
def test_stores_that_cannot_be_reached_say_so(
    environment: dict[str, str], dashboard: Dashboard, bucket: Bucket, path: str
) -> None:
    """With what to check, once, without the password; the other store is a click away."""
    environment |= bucket.settings("nowhere") | {"S3_ENDPOINT": "http://127.0.0.1:9", "PG_PORT": "9"}
    with dashboard() as url:
        for store, name in (("warehouse", "PG_HOST"), ("lake", "S3_ENDPOINT")):
            if path == "/completeness?" and store == "lake":
                continue
            page = look(url, f"{path}store={store}")
            told = [one.text for one in page.root.all("p", role="alert")]

            assert len(told) == len(set(told)) >= 1
            assert any(f"the {store} is not available" in text and name in text for text in told)
            assert environment["PG_PASSWORD"] not in page.html


def test_a_store_that_comes_back_is_shown(
    api: Api, poll: Callable[..., Report], dashboard: Dashboard, stores: Stores
) -> None:
    """The sessions that were lost meanwhile are not asked again."""
    api.world.add(ACCOUNT, "v1", spread(3, ago(hours=3), ago(hours=2)))
    poll()
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with dashboard() as url:
        assert look(url, "/events").status == 200
        stores.query(f"{ended} AND query LIKE '%{stores.schema}%'")
        codes = [look(url, "/events").status for _ in range(3)]

    assert codes[-1] == 200


def test_a_bucket_is_shown_as_a_folder_is(
    api: Api, poll: Callable[..., Report], environment: dict[str, str], bucket: Bucket, dashboard: Dashboard
) -> None:
    """Its numbers, and its events."""
    environment |= bucket.settings("dashboard")
    api.world.add(ACCOUNT, "v1", spread(3, ago(hours=3), ago(hours=2)))
    poll()
    with dashboard() as url:
        assert look(url, "/?store=lake").numbers["Records"] == "3"
        assert len(look(url, "/events?store=lake&q=text:high").rows()) == 3


def test_a_question_ends_when_nobody_waits_for_it(
    api: Api, poll: Callable[..., Report], dashboard: Dashboard, stores: Stores, tmp_path: Path
) -> None:
    """And holds up no other page while it lasts; the next look is answered."""
    api.world.add(ACCOUNT, "v1", spread(3, ago(hours=3), ago(hours=2)))
    poll()
    log = tmp_path / "served.log"
    with dashboard() as url:
        assert look(url, "/events").status == 200
        with locked(stores), requests.Session() as browser:
            with pytest.raises(requests.Timeout):
                browser.get(f"{url}/failures", timeout=2)
            assert look(url, "/events?store=lake").status == 200
            wait_until(lambda: "path=/failures" in log.read_text(), 20)  # it would last for 30
        assert look(url, "/events").status == 200


@contextmanager
def locked(stores: Stores) -> Iterator[None]:
    """The events, for a block: whoever asks for them waits."""
    server = stores.postgres
    connection = psycopg2.connect(
        host=server.host, port=server.port, dbname=server.database, user=server.user, password=server.password
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {stores.schema}.audit_logs IN ACCESS EXCLUSIVE MODE")
        yield


def test_a_role_that_only_reads_is_enough(
    api: Api, poll: Callable[..., Report], dashboard: Dashboard, stores: Stores
) -> None:
    """Every section but the warehouse's health, which names the right that is missing."""
    api.world.add(ACCOUNT, "v1", spread(3, ago(hours=3), ago(hours=2)))
    poll()
    role = f"{stores.schema}_reader"
    stores.query(f"CREATE ROLE {role} LOGIN PASSWORD 'only-for-this-test'")
    stores.query(f"GRANT USAGE ON SCHEMA {stores.schema} TO {role}")
    of_schema = "relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'v')"
    for table in stores.query(f"SELECT relname FROM pg_class WHERE {of_schema} AND relname LIKE 'audit%'"):
        stores.query(f"GRANT SELECT ON {stores.schema}.{table['relname']} TO {role}")
    with dashboard(PG_USER=role, PG_PASSWORD="only-for-this-test") as url:
        for path in ("/", "/events", "/failures", "/first-seen", "/sign-ins", "/tokens", "/completeness"):
            assert look(url, path).status == 200, path
        assert "a right is missing in the warehouse" in look(url, "/health").text
    stores.query(f"DROP OWNED BY {role}")
    stores.query(f"DROP ROLE {role}")
