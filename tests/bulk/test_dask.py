"""Backfill and rehydrate on a Dask cluster do what they do locally, and report what only a cluster gets wrong."""

import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from benchmarks.servers.commands import Finished, process_of, wait_until
from benchmarks.servers.dask import dask_cluster
from benchmarks.servers.seaweed import Bucket
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=4)).isoformat())
BACKFILL, REHYDRATE = ("pipelines/backfill.py", *WINDOW), ("pipelines/rehydrate.py", *WINDOW)
REHYDRATED = "SELECT account_id, event_id, xmin::text AS written FROM {schema}.audit_logs_rehydrated ORDER BY 1, 2"
BOTH = f"{ACCOUNT},{OTHER_ACCOUNT}"
SESSIONS = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name LIKE 'audit-pipeline/{pid}@%'"


@pytest.mark.parametrize("lake", ["folder", pytest.param("bucket", marks=pytest.mark.long)])
def test_a_cluster_does_what_a_pool_of_threads_does(
    api: Api,
    command: Command,
    stores: Stores,
    environment: dict[str, str],
    tmp_path: Path,
    lake: str,
    request: pytest.FixtureRequest,
) -> None:
    """Two accounts, four days; by both workers, which leave nothing open; nothing is left to do for threads."""
    if lake == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment |= bucket.settings(f"dask/{tmp_path.name}")
    environment["CLOUDFLARE_ACCOUNT_ID"] = BOTH
    events = {account: spread(60, DAY, DAY + timedelta(days=4)) for account in (ACCOUNT, OTHER_ACCOUNT)}
    for account, its in events.items():
        api.world.add(account, "v1", its)
    wanted = sorted(ids(events[ACCOUNT]) | ids(events[OTHER_ACCOUNT]))

    with dask_cluster(tmp_path / "cluster", environment, environment) as cluster:
        filled = command(*BACKFILL, "--scheduler", cluster.url, "--json")
        asked = len(api.requests)
        brought = command(*REHYDRATE, "--scheduler", cluster.url, "--json")
        sessions = [stores.query(SESSIONS.replace("{pid}", str(worker.pid))) for worker in cluster.workers]
    rows = stores.query(REHYDRATED)
    filled_again = command(*BACKFILL, "--json")
    brought_again = command(*REHYDRATE, "--json")

    assert (filled.code, filled.report["read"], filled.report["new"]) == (0, 120, {"warehouse": 120, "lake": 120})
    assert stores.ids() == (wanted, wanted)
    assert (brought.code, brought.report["events"]) == (0, 120), brought.err
    assert sorted(row["event_id"] for row in rows) == wanted
    assert (filled_again.report["days_skipped"], len(api.requests)) == (8, asked)
    assert (brought_again.report, stores.query(REHYDRATED)) == (brought.report, rows)
    folders = {path.name for path in (Path(environment["DATA_DIR"]) / "dlt/pipelines").iterdir() if path.is_dir()}
    assert {f"cloudflare_audit_lake_backfill_worker_{number}" for number in (0, 1)} <= folders
    assert sessions == [[{"n": 0}]] * 2


@pytest.mark.long
def test_the_accounts_that_are_broken_are_named_and_the_others_complete(
    api: Api, command: Command, stores: Stores, environment: dict[str, str], tmp_path: Path
) -> None:
    """Exit 1. A hundred accounts, without a cluster: test_many_accounts."""
    accounts = [f"{number:032x}" for number in range(40)]
    api.world.account_ids |= set(accounts)
    for account in accounts:
        api.world.add(account, "v1", spread(2, DAY, DAY + timedelta(days=1)))
    broken = accounts[3::20]
    api.faults += [Fault(account_id=account, status=403, body="{}", times=None) for account in broken]
    environment["CLOUDFLARE_ACCOUNT_ID"] = ",".join(accounts)
    one_day = ("pipelines/backfill.py", *WINDOW[:3], (DAY + timedelta(days=1)).isoformat())

    with dask_cluster(tmp_path / "cluster", environment, environment) as cluster:
        done = command(*one_day, "--scheduler", cluster.url, "--json")

    assert done.code == 1, done.err
    assert sorted(done.report["failed_accounts"]) == [f"audit_logs_v1_{account}" for account in broken]
    counted = "SELECT account_id, count(*) AS n FROM {schema}.audit_logs GROUP BY 1 ORDER BY 1"
    complete = [{"account_id": account, "n": 2} for account in accounts if account not in broken]
    assert stores.query(counted) == complete
    assert len(stores.lake_ids()) == len(set(stores.lake_ids())) == 76


def test_a_unit_that_fails_on_its_worker_is_named_and_the_others_go_on(
    api: Api, command: Command, stores: Stores, environment: dict[str, str], tmp_path: Path
) -> None:
    """With an error that nobody thought of. Exit 1."""
    environment["CLOUDFLARE_ACCOUNT_ID"] = BOTH
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(8, DAY, DAY + timedelta(days=4)))
    command(*BACKFILL)
    preload = ["--no-nanny", "--preload", "tests.faults.broken_unit"]

    with dask_cluster(
        tmp_path / "cluster", environment, environment, options=preload, BROKEN_ACCOUNT=ACCOUNT
    ) as cluster:
        done = command(*REHYDRATE, "--scheduler", cluster.url, "--json")

    assert done.code == 1, done.err
    assert sorted(done.report["failed"]) == [f"{ACCOUNT} {DAY + timedelta(days=n):%Y-%m-%d}" for n in range(4)]
    assert f"rehydrate.failed account={ACCOUNT} day={DAY:%Y-%m-%d}" in done.err
    assert "explosion" in done.err
    assert "Traceback" not in done.err
    assert {row["account_id"] for row in stores.query(REHYDRATED)} == {OTHER_ACCOUNT}


@pytest.mark.long
def test_all_workers_together_send_what_one_token_may(api: Api, environment: dict[str, str], tmp_path: Path) -> None:
    """600 requests in 5 minutes, whatever there is to do: half of what the API states."""
    environment |= {"CLOUDFLARE_PER_PAGE": "1", "CLOUDFLARE_ACCOUNT_ID": BOTH}
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(1_000, DAY, DAY + timedelta(days=4)))

    with dask_cluster(tmp_path / "cluster", environment, environment) as cluster:
        with process_of(environment, *BACKFILL, "--scheduler", cluster.url):
            wait_until(lambda: len(api.requests) >= 600, 120)
            time.sleep(3)
            sent = len(api.requests)
        waiting = cluster.logs.count("api.waiting")

    assert (sent, waiting) == (600, 2)


def test_no_secret_reaches_the_scheduler_or_a_log(
    api: Api, environment: dict[str, str], stores: Stores, command: Command, bucket: Bucket, tmp_path: Path
) -> None:
    """Looked at in the middle of a unit, at debug level: the state of all of them, and what they say."""
    role, api.token = f"canary_{stores.schema}", "canary-token-7c5e"
    stores.query(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'canary-password-1f3a'")
    environment |= bucket.settings(stores.schema) | {"PG_USER": role, "PG_PASSWORD": "canary-password-1f3a"}
    environment["CLOUDFLARE_API_TOKEN"] = api.token
    secrets = [environment[name] for name in ("CLOUDFLARE_API_TOKEN", "PG_PASSWORD", "S3_SECRET_KEY")]
    api.world.add(ACCOUNT, "v1", spread(8, DAY, DAY + timedelta(days=4)))
    api.faults.append(Fault(status=429, body="{}", headers={"Retry-After": "300"}, times=None))
    dump = (
        "import sys, cloudpickle; from distributed import Client; c = Client(sys.argv[1]); "
        "c.dump_cluster_state(sys.argv[2], format='yaml'); print(c.run_on_scheduler(lambda dask_scheduler: "
        "cloudpickle.dumps([(t.key, t.run_spec) for t in dask_scheduler.tasks.values()])))"
    )

    with (
        dask_cluster(tmp_path / "cluster", environment, environment, DASK_LOGGING__DISTRIBUTED="debug") as cluster,
        (tmp_path / "out").open("wb") as output,
        process_of(environment, *BACKFILL, "--scheduler", cluster.url, output=output) as backfill,
    ):
        wait_until(lambda: len(api.requests) >= 2)
        dumped = command("-c", dump, cluster.url, str(tmp_path / "state"))
        backfill.send_signal(signal.SIGINT)
        assert backfill.wait(120) == 130
    state = (tmp_path / "state.yaml").read_text()

    assert dumped.code == 0, dumped.err
    assert ACCOUNT in dumped.out
    assert "do_unit" in state
    assert "DEBUG" in cluster.logs
    for place in (state, dumped.out, dumped.err, cluster.logs, (tmp_path / "out").read_text()):
        assert not [secret for secret in secrets if secret in place]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"PG_SCHEMA": "elsewhere"}, r"schema elsewhere there and ", marks=pytest.mark.long),
        pytest.param({"DATA_DIR": "/nowhere"}, "the lake is file:///nowhere/lake there and ", marks=pytest.mark.long),
        ({"CLOUDFLARE_API_TOKEN": ""}, "CLOUDFLARE_API_TOKEN is missing"),
        pytest.param({"PG_HOST": ""}, "PG_PORT has no effect without PG_HOST", marks=pytest.mark.long),
    ],
)
def test_a_worker_with_other_settings_is_told_before_anything_is_done(
    api: Api, command: Command, environment: dict[str, str], tmp_path: Path, change: Mapping[str, str], said: str
) -> None:
    """One line that names it, and what is wrong; exit 1."""
    with dask_cluster(tmp_path / "cluster", environment, {**environment, **change}) as cluster:
        done = command(*BACKFILL, "--scheduler", cluster.url)

    assert done.code == 1, done.err
    assert "1 of 2 Dask workers do not suit: tcp://127.0.0.1:" in done.err
    assert said in done.err
    assert (len(done.err.splitlines()), api.requests) == (1, []), done.err


@pytest.mark.long
def test_a_scheduler_that_is_not_there_is_told(command: Command, tmp_path: Path) -> None:
    """Or that has no worker: one line, exit 75, in bounded time; an address that is none: exit 2."""
    begun = time.monotonic()
    nobody = command(*BACKFILL, "--scheduler", "tcp://127.0.0.1:9")
    with dask_cluster(tmp_path / "cluster") as cluster:
        idle = command(*BACKFILL, "--scheduler", cluster.url)
    seconds = time.monotonic() - begun
    wrong = command(*BACKFILL, "--scheduler", "127.0.0.1")

    assert (nobody.code, idle.code, wrong.code) == (75, 75, 2), nobody.err + idle.err
    assert "the Dask scheduler tcp://127.0.0.1:9 cannot be reached" in nobody.err
    assert f"the Dask scheduler {cluster.url} has no worker" in idle.err
    assert "write it as tcp://HOST:8786" in wrong.err
    assert [len(done.err.splitlines()) for done in (nobody, idle)] == [1, 1], nobody.err + idle.err
    assert seconds < 180


@pytest.mark.long
def test_ctrl_c_and_a_lost_scheduler_end_in_bounded_time(
    api: Api, environment: dict[str, str], command: Command, stores: Stores, tmp_path: Path
) -> None:
    """While the API makes everyone wait; the workers are free for the next command at once."""
    events = spread(8, DAY, DAY + timedelta(days=4))
    api.world.add(ACCOUNT, "v1", events)
    api.faults.append(Fault(status=429, body="{}", headers={"Retry-After": "300"}, times=None))
    with dask_cluster(tmp_path / "cluster", environment, environment) as cluster:
        with process_of(environment, *BACKFILL, "--scheduler", cluster.url) as backfill:
            wait_until(lambda: len(api.requests) >= 2)
            backfill.send_signal(signal.SIGINT)
            interrupted = backfill.wait(120)
        api.faults.clear()
        again = command(*BACKFILL, "--scheduler", cluster.url, "--json")
        stores.query("TRUNCATE {schema}.audit_logs")
        asked = len(api.requests)
        api.faults.append(Fault(status=429, body="{}", headers={"Retry-After": "300"}, times=None))
        log = tmp_path / "lost.log"
        with (
            log.open("wb") as output,
            process_of(environment, *BACKFILL, "--scheduler", cluster.url, output=output) as lost,
        ):
            wait_until(lambda: len(api.requests) >= asked + 2)
            cluster.scheduler.kill()
            code = lost.wait(120)

    assert interrupted == 130
    assert (again.code, again.report["read"]) == (0, len(events)), again.err
    assert code == 75, log.read_text()
    assert "the Dask scheduler was lost" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.long
def test_a_cluster_with_tls_is_reached_with_a_certificate_alone(
    api: Api, command: Command, stores: Stores, environment: dict[str, str], tmp_path: Path
) -> None:
    """Dask's own TLS, set up with its own names."""
    events = spread(8, DAY, DAY + timedelta(days=4))
    api.world.add(ACCOUNT, "v1", events)
    authority, files = trustme.CA(), {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(files["ca"])
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    prefix, names = "DASK_DISTRIBUTED__COMM__TLS__", ("SCHEDULER", "WORKER", "CLIENT")
    tls = {f"{prefix}{who}__{what.upper()}": str(files[what]) for who in names for what in ("cert", "key")}
    tls[f"{prefix}CA_FILE"] = str(files["ca"])

    with dask_cluster(
        tmp_path / "cluster", environment, DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME="tls", **tls
    ) as cluster:
        done = command(*BACKFILL, "--scheduler", cluster.url, **tls)
        stranger = command(*BACKFILL, "--scheduler", cluster.url)

    assert cluster.url.startswith("tls://")
    assert (done.code, stores.ids()) == (0, (sorted(ids(events)),) * 2), done.err
    assert (stranger.code, len(stranger.err.splitlines())) == (2, 1), stranger.err


@pytest.mark.long
def test_other_versions_on_a_worker_are_told(command: Command, environment: dict[str, str], tmp_path: Path) -> None:
    """Which worker, which package, which versions."""
    preload = ["--no-nanny", "--preload", "tests.faults.other_version"]

    with dask_cluster(tmp_path / "cluster", environment, options=preload) as cluster:
        done = command(*BACKFILL, "--scheduler", cluster.url)

    assert done.code == 0, done.err
    assert "dask.versions_differ at=tcp://127.0.0.1:" in done.err
    assert 'found="distributed 2020.1.0 (here ' in done.err


def test_dask_is_needed_for_the_option_alone(command: Command, tmp_path: Path) -> None:
    """Only `--scheduler` imports Dask; without the packages, it exits with 2 and says so."""
    (tmp_path / "distributed.py").write_text("raise ModuleNotFoundError(\"No module named 'distributed'\")")
    look = "import sys; from pipelines import backfill, rehydrate; print({'dask', 'distributed'} & set(sys.modules))"

    imported = command("-B", "-c", look)  # an interpreter of its own, which has loaded nothing yet
    missing = command(*BACKFILL, "--scheduler", "tcp://127.0.0.1:9", PYTHONPATH=str(tmp_path))

    assert imported.out.strip() == "set()"
    assert missing.code == 2
    assert missing.err.startswith("--scheduler needs Dask (No module named 'distributed')")
