"""A store that accepts connections and never answers: doctor and status end in seconds, and show the other."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psycopg2
import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import S3_KEYS
from pipelines.host.side_by_side import PATIENCE_SECONDS, Asked, SilentError, answers_of
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

Command = Callable[..., Finished]
Poll = Callable[..., Report]

DOCTOR, STATUS = "pipelines/doctor.py", "pipelines/status.py"
MANY_SECONDS = 60
"""Ten for the store; the rest is for starting Python on a machine with much else to do. The lake alone took 158 s."""


@pytest.fixture
def silent() -> Iterator[str]:
    """The port of a server that accepts and says nothing."""
    accepted = list[socket.socket]()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield str(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


def _silence(store: str, port: str) -> dict[str, str]:
    if store == "warehouse":
        return {"PG_HOST": "127.0.0.1", "PG_PORT": port}
    if store == "lake":
        return {"S3_BUCKET": "lake", "S3_ENDPOINT": f"http://127.0.0.1:{port}", "S3_REGION": "us-east-1", **S3_KEYS}
    return {"CLOUDFLARE_API_URL": f"http://127.0.0.1:{port}"}


@pytest.mark.wide
@pytest.mark.integration
@pytest.mark.parametrize("store", ["warehouse", "lake", "api"])
def test_a_silent_store_hides_nothing_from_the_doctor(command: Command, poll: Poll, silent: str, store: str) -> None:
    """All others are looked at from all sides."""
    poll()
    begun = time.monotonic()

    done = command(DOCTOR, "--json", **_silence(store, silent))

    took = time.monotonic() - begun
    lines = [json.loads(line) for line in done.out.splitlines()]
    checks = {status: [line["check"] for line in lines if line["status"] == status] for status in ("ok", "fail")}
    others = {"warehouse": "key", "lake": "lake", "api": "account"}
    assert done.code == 1
    assert checks["fail"] == [store], done.out
    assert {check for name, check in others.items() if name != store} <= set(checks["ok"])
    assert took < MANY_SECONDS


@pytest.mark.wide
@pytest.mark.integration
@pytest.mark.parametrize(("store", "other"), [("warehouse", "lake"), ("lake", "warehouse")])
def test_a_silent_store_hides_nothing_from_the_status(
    api: Api, command: Command, poll: Poll, silent: str, store: str, other: str
) -> None:
    """The log names the silent store, and the exit code says that it may pass."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=2), ago(minutes=1)))
    poll()
    begun = time.monotonic()

    done = command(STATUS, "--json", **_silence(store, silent))

    assert time.monotonic() - begun < MANY_SECONDS
    assert done.code == 75, done.err
    assert done.report[store].keys() == {"error"}
    assert done.report[other]["streams"]


@pytest.mark.wide
@pytest.mark.integration
@pytest.mark.parametrize("name", [DOCTOR, STATUS])
def test_a_table_that_is_locked_is_waited_for_as_long_and_no_longer(
    command: Command, poll: Poll, stores: Stores, name: str
) -> None:
    """PostgreSQL itself ends the questions: nothing goes on there when we are gone."""
    poll()
    server = stores.postgres
    locking = psycopg2.connect(
        host=server.host, port=server.port, dbname=server.database, user=server.user, password=server.password
    )
    with locking, locking.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {stores.schema}.audit_logs IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()

        done = command(name, "--json")

        took = time.monotonic() - begun
        time.sleep(2)
        waiting = stores.query(
            "SELECT count(*) AS n FROM pg_locks WHERE NOT granted AND relation = '{schema}.audit_logs'::regclass"
        )
    locking.close()

    assert took < MANY_SECONDS
    assert done.code in {1, 75}
    assert "lake" in done.out
    assert waiting == [{"n": 0}]


def test_parts_that_came_before_the_silence_are_given() -> None:
    """Parts read before the silence are returned, and an error is raised where its answer is awaited."""
    never = threading.Event()

    def ask() -> Iterator[int]:
        yield 1
        yield 2
        never.wait(120)

    def fail() -> int:
        raise ValueError("wrong")

    asked, got = Asked(ask, 2), list[int]()
    with pytest.raises(SilentError, match=r"no answer in 2 s"):
        got.extend(asked.answers())

    assert got == [1, 2]
    assert PATIENCE_SECONDS == 10
    with pytest.raises(ValueError, match="wrong"):
        answers_of(lambda _: fail(), ["one"], lambda _: 0)
