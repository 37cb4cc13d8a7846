"""The doctor looks at everything, changes nothing, and says what to do."""

import contextlib
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import pipelines.doctor
from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.checks.finding import Finding, complete
from pipelines.checks.warehouse import timescale_finding
from pipelines.host.side_by_side import SilentError
from pipelines.loop.report import Report
from pipelines.settings.settings import TimescaleSettings
from pipelines.warehouse.setup import check_version
from pipelines.warehouse.upkeep import Found
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores
from tests.watching import watched_loop

Command = Callable[..., Finished]
Poll = Callable[..., Report]
DOCTOR = ("pipelines/doctor.py", "--patience", "120")
"""Nothing hangs here but where a test says so: the limit is for that alone, not for a machine with much to do."""
ALL = [
    "settings",
    "disk",
    "runner",
    "api",
    "clock",
    "token",
    "budget",
    "account",
    "warehouse",
    "postgresql",
    "encoding",
    "pooling",
    "owner",
    "rights",
]
ALL += ["key", "timescaledb", "writer", "safety lag", "gaps", "lake", "seals"]


def checks_of(done: Finished, status: str) -> list[str]:
    lines = [json.loads(line) for line in done.out.splitlines()]
    return [line["check"] for line in lines if line["status"] == status]


def _contents(stores: Stores) -> tuple[list[str], list[dict[str, object]]]:
    """Every file, and every table with what was done to it."""
    files = sorted(str(path) for path in Path(stores.lake).parent.rglob("*") if "postgres" not in path.parts)
    stores.query("SELECT 1 AS one FROM pg_stat_force_next_flush()")
    changes = "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_all_tables"
    return files, stores.query(f"{changes} WHERE schemaname = '{{schema}}' ORDER BY 1")


@pytest.mark.integration
def test_where_all_is_well_every_line_is_ok_and_nothing_is_changed(
    api: Api, command: Command, poll: Poll, stores: Stores
) -> None:
    """Before the first start as after it; no secret in sight."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=1), ago(minutes=1)))
    untouched = _contents(stores)
    new = command(*DOCTOR, "--json")
    still_untouched = _contents(stores)
    poll()
    loaded = _contents(stores)

    done = command(*DOCTOR, "--json")

    assert (new.code, done.code) == (0, 0), new.out + done.out
    assert checks_of(new, "ok") == checks_of(done, "ok") == ALL, new.out + done.out
    assert (untouched, loaded) == (still_untouched, _contents(stores))
    secrets = [stores.environment["CLOUDFLARE_API_TOKEN"], stores.environment["PG_PASSWORD"]]
    assert not [secret for secret in secrets if secret in new.out + new.err + done.out + done.err]


@pytest.mark.long
@pytest.mark.integration
def test_a_port_is_the_jobs_only_if_the_job_answers_there(
    command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    """The doctor names another server in that place, also one that does not answer."""
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    with (
        watched_loop(environment, tmp_path) as loop,
        elsewhere,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        Thread(target=elsewhere.serve_forever, daemon=True).start()
        ports = (loop.port, elsewhere.server_port, silent.getsockname()[1])
        found = [command(*DOCTOR, "--json", METRICS_PORT=str(port)) for port in ports]
        elsewhere.shutdown()

    assert ["port" in checks_of(done, "ok") for done in found] == [True, False, False]
    assert ["port" in checks_of(done, "fail") for done in found] == [False, True, True]


@pytest.mark.integration
def test_one_failure_hides_no_other(command: Command, stores: Stores) -> None:
    """Token, password and folder, all three wrong."""
    Path(stores.environment["DATA_DIR"]).mkdir()
    stores.lake.write_text("not a folder")

    done = command(*DOCTOR, "--json", CLOUDFLARE_API_TOKEN="wrong", PG_PASSWORD="wrong")

    assert (done.code, checks_of(done, "fail")) == (1, ["token", "warehouse", "lake"])


@pytest.mark.integration
def test_a_warehouse_that_lacks_a_column_is_told_by_all_alike(command: Command, poll: Poll, stores: Stores) -> None:
    """By doctor, loop and status: none calls it well, or a server that is down."""
    poll()
    stores.query("ALTER TABLE {schema}.audit_logs DROP COLUMN ingestion_time CASCADE")

    doctor, loop, status = (
        command(*DOCTOR, "--json"),
        command("pipelines/run.py", "--once"),
        command("pipelines/status.py"),
    )

    lacking = f"the table {stores.schema}.audit_logs has no column ingestion_time"
    assert (doctor.code, loop.code, status.code) == (1, 1, 1)
    assert checks_of(doctor, "fail") == ["key"]
    assert lacking in doctor.out
    assert lacking in loop.err
    assert "the warehouse is not as it should be" in status.out


@pytest.mark.integration
def test_a_table_of_others_is_told_by_all_alike(command: Command, stores: Stores) -> None:
    """The message names the foreign table, and not the tables that are missing."""
    stores.query("CREATE SCHEMA {schema}")
    stores.query("CREATE TABLE {schema}.audit_logs (id int)")

    doctor, status = command(*DOCTOR, "--json"), command("pipelines/status.py")
    loop = command("pipelines/run.py", "--once")

    assert (doctor.code, loop.code, status.code) == (1, 1, 1)
    assert checks_of(doctor, "fail") == ["key"]
    for said in (doctor.out, loop.err):
        assert "it is not ours: set PG_SCHEMA" in said
    assert "the warehouse is not as it should be" in status.out


@pytest.mark.integration
def test_a_bucket_is_tried_out_and_left_as_it_was(command: Command, stores: Stores, bucket: Bucket) -> None:
    """Conditions included."""
    prefix = bucket.settings(prefix=stores.schema)

    done = command(*DOCTOR, "--json", **prefix)

    left = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{stores.schema}/")
    assert done.code == 0, done.out
    assert checks_of(done, "ok") == [*ALL[:-1], "conditions", "seals"], done.out
    assert left.get("Contents", []) == []


@pytest.mark.integration
def test_a_safety_lag_that_is_too_short_is_told_with_a_better_one(command: Command, poll: Poll, stores: Stores) -> None:
    """Events that came 200 seconds late, where 60 are waited for."""
    poll()
    stores.query(f"""
        INSERT INTO {{schema}}.audit_logs (event_id, "timestamp", account_id, api_version, raw_event, ingestion_time)
        SELECT t::text, t, '{ACCOUNT}', 'v1', '{{}}', t + INTERVAL '200 seconds'
        FROM generate_series(now() - INTERVAL '4990 seconds', now(), INTERVAL '10 seconds') AS t
    """)

    done, longer = (command(*DOCTOR, CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS=lag) for lag in ("60", "900"))

    (line,) = [line for line in done.out.splitlines() if "safety lag" in line]
    assert done.code == 0
    assert line.startswith("warn  safety lag   60 s; 99.9 % of 480 events came within 200 s"), line
    assert "set CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS to 300" in line
    assert "warn" not in longer.out


@pytest.mark.integration
def test_names_that_are_no_settings_are_warned_of(command: Command) -> None:
    """With the one that was probably meant."""
    done = command(*DOCTOR, PG_PASWORD="x")

    assert "warn  settings     PG_PASWORD is not a setting and is ignored: did you mean PG_PASSWORD?" in done.out


@pytest.mark.integration
def test_the_embedded_server_is_started_if_it_is_there_and_never_made(command: Command, server_dir: Path) -> None:
    """It is left as it was found; by psql.py, too."""
    own: dict[str, str | None] = {"PG_HOST": None, "PG_PORT": None, "PG_PASSWORD": None, "PG_SCHEMA": None}
    own |= {"DATA_DIR": str(server_dir / f"doctor-{os.getpid()}")}
    new = command(*DOCTOR, **own)
    asked = command("pipelines/psql.py", "-c", "SELECT 1", **own)
    made = (server_dir / f"doctor-{os.getpid()}").exists()
    assert command("pipelines/run.py", "--once", **own).code == 0

    done = command(*DOCTOR, "--json", **own)

    assert (new.code, asked.code, made, done.code) == (0, 1, False, 0), done.out
    assert "nothing is in" in asked.err
    assert "which the first start makes" in new.out
    assert checks_of(done, "ok") == ALL
    assert not (server_dir / f"doctor-{os.getpid()}" / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("number", "said"), [(180004, "18.4"), (120017, "12.17"), (110022, "11.22 is too old"), (90624, "9.6 is too old")]
)
def test_a_server_is_too_old_before_12(number: int, said: str) -> None:
    """The check of a version number; `test_mistakes` has a real old server, which TEST_OLD_POSTGRES_DSN names."""
    if "old" not in said:
        assert check_version(number) == said
        return
    with pytest.raises(AuditLogsError, match=said):
        check_version(number)


@pytest.mark.parametrize(
    ("found", "chunk_days", "status", "said"),
    [
        (Found(), 7, "ok", "this server has none"),
        (Found(is_available=True), 7, "ok", "the first load makes it"),
        (Found(is_available=True), 0, "ok", "not asked for"),
        (Found(extension="2.29.2"), 7, "warn", "library is not loaded"),
        (Found(extension="2.29.2", license="apache", chunk_days=7.0), 7, "warn", "no columnstore"),
        (Found(extension="2.29.2", license="timescale"), 7, "ok", "a plain table yet"),
        (Found(extension="2.29.2", license="timescale", chunk_days=7.0), 7, "ok", "chunks of 7 days"),
    ],
)
def test_what_is_said_of_timescaledb_and_its_licence(found: Found, chunk_days: int, status: str, said: str) -> None:
    """None of it stops the loop."""
    finding = timescale_finding(found, TimescaleSettings(chunk_days=chunk_days))

    assert (finding.status, said in finding.found) == (status, True)


def test_a_check_that_is_not_answered_and_those_after_it_have_a_line_each() -> None:
    """Never silence, whatever has failed or hangs."""

    def findings() -> Iterator[Finding]:
        yield Finding("ok", "api", "there")
        raise SilentError("no answer in 10 s")

    lines = [finding[:3] for finding in complete(["api", "token", "account"], findings())]
    failed = [finding[:3] for finding in complete(["api", "token"], [Finding("fail", "api", "down")])]

    assert lines == [
        ("ok", "api", "there"),
        ("fail", "token", "no answer in 10 s"),
        ("warn", "account", "not checked, because token failed"),
    ]
    assert failed == [("fail", "api", "down"), ("warn", "token", "not checked, because api failed")]


def test_no_line_is_lost_where_a_thread_puts_its_own_stream_in_place_of_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dlt does, each time that it reads its configuration."""

    def findings(*_: object) -> Iterator[Finding]:
        with contextlib.redirect_stdout(io.StringIO()):
            yield Finding("ok", "token", "known")

    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "token")
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", ACCOUNT)
    monkeypatch.setattr(pipelines.doctor, "check_all", findings)

    code = pipelines.doctor.main([])

    assert (code, capsys.readouterr().out) == (0, "ok    token        known\n")
