"""The main job works with the rights that it asks for and no more."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.s3_gate import ACCESS_DENIED, Gate, Refusal, S3Request
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from pipelines.s3_policy import policy
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.embedded import BINARIES
from simulator.api import Api
from tests.factory import ACCOUNT, ago, encoded, event_at, ids, raw_event, spread, v1_tree
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


@pytest.fixture
def roles(stores: Stores, environment: dict[str, str]) -> dict[str, str]:
    """The two roles of `roles.sql`, in a database of their own, as the settings say."""
    number = stores.schema.rpartition("_")[2]
    database, owner, ingest = (f"{name}_{os.getpid()}_{number}" for name in ("rights", "audit_owner", "audit_ingest"))
    stores.query(f"CREATE DATABASE {database}")
    server = stores.postgres
    login = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user, "PGPASSWORD": server.password}
    variables = [f"-vschema={stores.schema}", f"-vowner={owner}", f"-vingest={ingest}"]
    command = [
        shutil.which("psql") or str(BINARIES / "psql"),
        "-d",
        database,
        *variables,
        "-f",
        "pipelines/warehouse/sql/roles.sql",
    ]
    subprocess.run(command, env={**os.environ, **login}, cwd=PROJECT_ROOT, check=True)
    for role in (owner, ingest):
        stores.query(f"ALTER ROLE {role} PASSWORD 'secret-of-{role}'")
    settings = {
        "PG_DATABASE": database,
        "PG_OWNER_USER": owner,
        "PG_OWNER_PASSWORD": f"secret-of-{owner}",
        "PG_USER": ingest,
        "PG_PASSWORD": f"secret-of-{ingest}",
    }
    environment.update(settings)
    return settings


def _execute(stores: Stores, roles: Mapping[str, str], sql: str, role: str = "PG") -> list[dict[str, Any]]:
    """As the loading role, or as the owner."""
    server, user, password = stores.postgres, roles[f"{role}_USER"], roles[f"{role}_PASSWORD"]
    uri = f"postgresql://{user}:{password}@{server.host}:{server.port}/{roles['PG_DATABASE']}"
    with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql.replace("{schema}", stores.schema))
        return cursor.fetch_arrow_table().to_pylist() if cursor.description else []


def _with_all_kinds(api: Api) -> set[str]:
    """New, late, unplaceable and refused events; returns the ids of those that both stores hold."""
    events = [*spread(20, ago(hours=3), ago(hours=1)), event_at(ago(seconds=1))]
    api.world.add(ACCOUNT, "v1", [*events, raw_event('"no event"', time=ago(minutes=2))])
    api.world.add(ACCOUNT, "v1", [raw_event(encoded(v1_tree(id="x" * 20_000)), time=ago(minutes=3))])
    return ids(events)


def test_with_an_owner_the_loading_role_reads_and_inserts_alone(
    api: Api, command: Command, stores: Stores, roles: dict[str, str]
) -> None:
    """Polls, sweeps and the quarantine work; what is loaded cannot be taken away."""
    expected = _with_all_kinds(api)
    assert command(*ONCE).code == 0
    late = event_at(ago(hours=5))
    api.world.add(ACCOUNT, "v1", [late])

    swept = command(*ONCE, SWEEP_INTERVAL_SECONDS="0.1")

    held = {row["event_id"] for row in _execute(stores, roles, "SELECT event_id FROM {schema}.audit_logs_all")}
    assert swept.code == 0, swept.err
    assert held >= expected | ids([late])
    for sql in (
        "DELETE FROM {schema}.audit_logs",
        "UPDATE {schema}.audit_logs SET event_id = ''",
        "TRUNCATE {schema}.audit_logs",
        "DROP TABLE {schema}.audit_logs",
        "ALTER TABLE {schema}.audit_logs ADD COLUMN x int",
        "DELETE FROM {schema}.audit_logs_quarantine",
        "CREATE SCHEMA elsewhere",
    ):
        with pytest.raises(adbc_driver_manager.Error, match=r"42501|InsufficientPrivilege|denied|must be owner"):
            _execute(stores, roles, sql)


def test_with_an_owner_the_copies_of_seals_are_added_and_never_changed(
    api: Api, command: Command, stores: Stores, roles: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    """The loading role seals, and cannot take a row of it away."""
    begin = ago(hours=4).replace(minute=0, second=0, microsecond=0)
    environment |= {"SEAL_KEY_FILE": str(tmp_path / "seal.key"), "INITIAL_CHECKPOINT": begin.isoformat()}
    api.world.add(ACCOUNT, "v1", spread(5, begin, ago(hours=3)))
    assert command("pipelines/seal.py", "--init").code == 0

    done = command(*ONCE)

    counted = "SELECT count(*) AS rows FROM {schema}.audit_seals WHERE kind = 'hour'"
    assert done.code == 0, done.err
    assert _execute(stores, roles, counted)[0]["rows"] >= 2
    for sql in ("DELETE FROM", "TRUNCATE", "DROP TABLE", "UPDATE"):
        with pytest.raises(adbc_driver_manager.Error, match=r"42501|InsufficientPrivilege|denied|must be owner"):
            _execute(stores, roles, f"{sql} {{schema}}.audit_seals{' SET root = NULL' * (sql == 'UPDATE')}")


def test_without_ownership_the_set_up_looks_and_alters_nothing(
    api: Api, command: Command, stores: Stores, roles: dict[str, str], environment: dict[str, str]
) -> None:
    """Tables made by an administrator are used as they are; missing ones are reported, with a hint."""
    del environment["PG_OWNER_USER"], environment["PG_OWNER_PASSWORD"]
    missing = command(*ONCE)
    assert command(*ONCE, PG_OWNER_USER=roles["PG_OWNER_USER"], PG_OWNER_PASSWORD=roles["PG_OWNER_PASSWORD"]).code == 0
    events = spread(3, ago(minutes=5), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    done = command(*ONCE)
    _execute(stores, roles, "DROP VIEW {schema}.audit_activity_hourly", role="PG_OWNER")
    lacking = command(*ONCE)

    assert missing.code == 1
    assert "PG_OWNER_USER" in missing.err
    assert done.code == 0, done.err
    assert "warehouse.not_prepared" not in done.err
    assert 'step="view audit_activity_hourly, counted" reason="the tables are another role' in lacking.err
    assert len(_execute(stores, roles, "SELECT 1 AS one FROM {schema}.audit_logs")) == 3


def _allows(document: Mapping[str, Any], request: S3Request) -> bool:
    """As S3 reads a policy document."""
    bucket = f"arn:aws:s3:::{request.bucket}"
    for statement in document["Statement"]:
        if request.action not in statement["Action"]:
            continue
        if request.action == "s3:ListBucket":
            prefixes = statement["Condition"]["StringLike"]["s3:prefix"]
            if bucket in statement["Resource"] and any(fnmatchcase(request.key, prefix) for prefix in prefixes):
                return True
        elif any(fnmatchcase(f"{bucket}/{request.key}", resource) for resource in statement["Resource"]):
            return True
    return False


@pytest.mark.long
def test_the_lake_works_under_the_policy_that_it_asks_for(
    api: Api, poll: Poll, stores: Stores, lake_gate: Gate, environment: dict[str, str]
) -> None:
    """The store answers 403 to everything else; polls, sweeps, quarantine, restarts and damaged files included."""
    document = policy(environment["S3_BUCKET"], environment["S3_PREFIX"])
    denied: list[S3Request] = []

    def refuse(request: S3Request) -> Refusal | None:
        if _allows(document, request):
            return None
        denied.append(request)
        return ACCESS_DENIED

    lake_gate.refuse = refuse
    expected = _with_all_kinds(api)
    environment["DESTINATION__FILESYSTEM__MAX_STATE_FILES"] = "2"
    for _ in range(4):  # more than the states that are kept
        event = event_at(ago(seconds=1))
        api.world.add(ACCOUNT, "v1", [event])
        expected |= ids([event])
        report = poll()
        assert not report.failures.destinations
    late = event_at(ago(hours=5))
    api.world.add(ACCOUNT, "v1", [late])

    report = poll(SWEEP_INTERVAL_SECONDS="0.1")

    assert denied == []
    assert report.late["lake"] == 1
    assert set(stores.lake_ids()) >= expected | ids([late])
    assert any(request.action == "s3:DeleteObject" for request in lake_gate.requests)


def test_the_doctor_and_the_status_work_with_the_loading_roles_rights(
    api: Api, command: Command, stores: Stores, roles: dict[str, str]
) -> None:
    """Before the first start, after it, and where the owner is not named; a missing right is reported."""
    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=5), ago(minutes=1)))
    no_owner: dict[str, str | None] = {"PG_OWNER_USER": None, "PG_OWNER_PASSWORD": None}
    new, not_its = command("pipelines/doctor.py"), command("pipelines/doctor.py", **no_owner)
    assert command(*ONCE).code == 0

    loaded, alone = command("pipelines/doctor.py"), command("pipelines/doctor.py", **no_owner)
    status = command("pipelines/status.py", "--json", **no_owner)
    _execute(stores, roles, f"REVOKE INSERT ON {{schema}}.audit_logs FROM {roles['PG_USER']}", role="PG_OWNER")
    revoked = command("pipelines/doctor.py", **no_owner)

    assert [done.code for done in (new, not_its, loaded, alone, status, revoked)] == [0, 1, 0, 0, 0, 1]
    assert f"fail  rights       there is no table {stores.schema}.audit_logs, and" in not_its.out
    assert f"ok    owner        login as {roles['PG_OWNER_USER']} works" in loaded.out
    assert status.report["warehouse"]["streams"][0]["cursor"]
    assert f"may not read and insert into {stores.schema}.audit_logs (GRANT it" in revoked.out
    assert "secret-of-" not in "".join(done.out + done.err for done in (new, not_its, loaded, alone, status, revoked))


@pytest.mark.wide
@pytest.mark.parametrize("may_delete", [True, False])
def test_the_doctor_and_the_status_work_under_the_policy(
    api: Api, command: Command, lake_gate: Gate, environment: dict[str, str], bucket: Bucket, *, may_delete: bool
) -> None:
    """Nothing else is asked for; where nothing may be deleted, one object stays, however often it is called."""
    document = policy(environment["S3_BUCKET"], environment["S3_PREFIX"])
    denied: list[S3Request] = []

    def refuse(request: S3Request) -> Refusal | None:
        if _allows(document, request) and (may_delete or request.action != "s3:DeleteObject"):
            return None
        denied.append(request)
        return ACCESS_DENIED

    lake_gate.refuse = refuse
    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=5), ago(minutes=1)))

    twice = [command("pipelines/doctor.py") for _ in range(2)]
    left = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{environment['S3_PREFIX']}/")
    assert command(*ONCE).code == 0
    status = command("pipelines/status.py", "--json")

    assert [done.code for done in (*twice, status)] == [0, 0, 0], twice[1].out
    assert all("ok    conditions   conditional writes are enforced" in done.out for done in twice)
    assert status.report["lake"]["streams"][0]["cursor"]
    assert len(left.get("Contents", [])) == (0 if may_delete else 1)
    assert {request.action for request in denied} == (set() if may_delete else {"s3:DeleteObject"})


def test_the_policy_is_printed_for_the_settings(command: Command) -> None:
    """JSON on stdout; a folder lake needs none."""
    bucket = {"S3_BUCKET": "audit-lake", "S3_PREFIX": "prod/cf"}

    printed = command("pipelines/s3_policy.py", **bucket)
    folder = command("pipelines/s3_policy.py")
    help_text = command("pipelines/s3_policy.py", "--help")

    assert json.loads(printed.out) == policy("audit-lake", "prod/cf")
    assert "s3:DeleteObject" not in json.dumps(policy("audit-lake", "prod/cf")["Statement"][0])
    assert folder.code == 2
    assert (help_text.code, help_text.out[:33]) == (0, "usage: cloudflare-audit s3_policy")
