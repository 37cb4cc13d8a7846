"""The token, the database password and the S3 secret show nowhere: no log, trace, file, table or process list."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from benchmarks.servers.s3_gate import ACCESS_DENIED, Gate
from benchmarks.servers.seaweed import Bucket
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, ago, encoded, raw_event, spread, v1_tree
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")
AT_DEBUG_LEVEL = """
import logging, sys
from pipelines import run
from pipelines.host import logs
logs.configure_logs = lambda: logging.basicConfig(level=logging.DEBUG, force=True)
run.configure_logs = logs.configure_logs
sys.exit(run.main(["--once"]))
"""
CRASHING = """
import sys
from pipelines import run
from pipelines.fetch import api
from pipelines.warehouse import write
from sources.cloudflare_audit_logs import client
def explode(*_, **__): raise RuntimeError("explosion")
{}
sys.exit(run.main(["--once"]))
"""


@pytest.fixture
def canaries(stores: Stores, environment: dict[str, str], bucket: Bucket, api: Api) -> dict[str, str]:
    """Secrets that would be found: a role and a token of this test's own, and the store's key as it is."""
    role = f"canary_{os.getpid()}_{stores.schema}"
    stores.query(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'canary-password-1f3a'")
    api.token = "canary-token-7c5e"
    environment.update(bucket.settings(prefix=stores.schema), PG_USER=role, PG_PASSWORD="canary-password-1f3a")
    environment["CLOUDFLARE_API_TOKEN"] = api.token
    return {name: environment[name] for name in ("CLOUDFLARE_API_TOKEN", "PG_PASSWORD", "S3_SECRET_KEY")}


def _places(stores: Stores, environment: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Every file of the data folder, every object, every row of every table."""
    for file in Path(environment["DATA_DIR"]).rglob("*"):
        if file.is_file():
            yield str(file), file.read_bytes()
    for number, body in enumerate(stores.objects("")):
        yield f"object {number}", body
    tables = stores.query("SELECT table_name AS name FROM information_schema.tables WHERE table_schema = '{schema}'")
    for table in tables:
        rows = stores.query(f"SELECT t::text AS row FROM {{schema}}.{table['name']} AS t")
        yield table["name"], "\n".join(row["row"] for row in rows).encode()


def _assert_clean(done: Finished, canaries: Mapping[str, str], stores: Stores, environment: Mapping[str, str]) -> None:
    printed = ("what was printed", (done.out + done.err).encode())
    for place, content in (printed, *_places(stores, environment)):
        for name, secret in canaries.items():
            assert secret.encode() not in content, f"{name} is in {place}"


def _one_of_each_kind(api: Api) -> None:
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=3), ago(minutes=1)))
    api.world.add(ACCOUNT, "v1", [raw_event('"no event"', time=ago(minutes=2))])
    api.world.add(ACCOUNT, "v1", [raw_event(encoded(v1_tree(id="x" * 20_000)), time=ago(minutes=3))])


@pytest.mark.long
def test_a_run_that_goes_well_shows_no_secret(
    api: Api, command: Command, stores: Stores, environment: dict[str, str], canaries: dict[str, str]
) -> None:
    """Quarantine included."""
    _one_of_each_kind(api)

    done = command(*ONCE)

    assert done.code == 0, done.err
    _assert_clean(done, canaries, stores, environment)


@pytest.mark.long
def test_debug_level_of_everything_shows_no_secret(
    api: Api, command: Command, stores: Stores, environment: dict[str, str], canaries: dict[str, str]
) -> None:
    """dlt, botocore, s3fs and urllib3 say all they can."""
    _one_of_each_kind(api)

    done = command("-c", AT_DEBUG_LEVEL, RUNTIME__LOG_LEVEL="DEBUG")

    assert done.code == 0, done.err
    assert "DEBUG" in done.err
    _assert_clean(done, canaries, stores, environment)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("client.parse_answer", marks=pytest.mark.long),
        pytest.param("api.decode_page", marks=pytest.mark.long),
        "write._insert_batch",
    ],
)
def test_a_traceback_shows_no_secret(
    api: Api, command: Command, stores: Stores, environment: dict[str, str], canaries: dict[str, str], place: str
) -> None:
    """An unexpected error shows no secret either."""
    _one_of_each_kind(api)

    done = command("-c", CRASHING.format(f"{place} = explode"))

    assert done.code != 0
    assert "explosion" in done.err
    _assert_clean(done, canaries, stores, environment)


@pytest.mark.parametrize("refused", ["API", *(pytest.param(s, marks=pytest.mark.long) for s in ("warehouse", "lake"))])
def test_a_refusal_shows_no_secret(
    api: Api,
    command: Command,
    stores: Stores,
    environment: dict[str, str],
    canaries: dict[str, str],
    lake_gate: Gate,
    refused: str,
) -> None:
    """401, a wrong password, 403."""
    environment.update(canaries)
    if refused == "API":
        api.faults.append(Fault(times=None, status=401))
    elif refused == "warehouse":
        canaries["PG_PASSWORD"] = environment["PG_PASSWORD"] = "canary-wrong-password"
    else:
        lake_gate.refuse = lambda _: ACCESS_DENIED

    done = command(*ONCE)

    lake_gate.refuse = lambda _: None
    assert done.code in {1, 75}
    _assert_clean(done, canaries, stores, environment)


def test_the_process_list_shows_no_secret(
    api: Api, environment: dict[str, str], canaries: dict[str, str], server_dir: Path
) -> None:
    """No secret is in the command line of our processes or of the servers that we start."""
    for name in [name for name in environment if name.startswith("PG_")]:
        del environment[name]
    folder = server_dir / "process-list"
    own_interpreter = {"PYTHONHASHSEED": "0"}  # or the list would show the line of the one that forks
    with process_of(environment, "pipelines/run.py", DATA_DIR=str(folder), **own_interpreter) as loop:
        wait_until(lambda: bool(api.requests))
        lines = b"".join(_command_lines())
        loop.terminate()
        loop.wait(120)

    assert str(folder).encode() in lines
    for secret in (*canaries.values(), Path(f"{folder}/postgres.password").read_text()):
        assert secret.encode() not in lines


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue
