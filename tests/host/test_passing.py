"""Exit 75 is for what can pass; what an operator has to act on is 1. Real errors of the system and of real servers."""

import errno
from collections.abc import Callable, Mapping
from pathlib import Path

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from benchmarks.servers.commands import Finished
from benchmarks.servers.s3_gate import Refusal, gate_before
from benchmarks.servers.seaweed import Bucket
from pipelines.host.transient import WrongUsageError, can_pass, exit_code_of
from pipelines.settings.settings import PostgresSettings
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (TimeoutError("timed out"), True),
        (FileNotFoundError(errno.ENOENT, "removed meanwhile"), True),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), True),
        (pa.ArrowMemoryError("malloc of size 1000000000 failed"), True),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileExistsError(errno.EEXIST, "File exists"), False),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), False),
        (PermissionError("translated by s3fs, without a number"), False),
        (NoCredentialsError(), False),
        (ValueError("Schema at index 1 was different"), False),
        (pa.ArrowInvalid("Parquet magic bytes not found"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_system_is_told_by_its_kind(error: Exception, *, passes: bool) -> None:
    """By its number or its class, not by its words."""
    assert can_pass(error) == passes


@pytest.mark.integration
@pytest.mark.parametrize(
    ("statements", "passes"),
    [
        (["SELECT pg_terminate_backend(pg_backend_pid())"], True),
        (["SET statement_timeout = 1", "SELECT pg_sleep(9)"], True),
        (["SET default_transaction_read_only = on", "CREATE TABLE nothing ()"], True),
        (["SELECT * FROM no_such_table"], False),
        (["DO $$ BEGIN RAISE EXCEPTION 'a trigger of an administrator'; END $$"], False),
        (["SET client_encoding = 'nonsense'"], False),
    ],
)
def test_an_error_of_postgresql_is_told_by_its_sqlstate(
    postgres: PostgresSettings, statements: list[str], *, passes: bool
) -> None:
    """An SQLSTATE that ADBC hands on says if the failure may pass; psycopg2 calls it pgcode."""
    server = postgres
    uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"
    *before, last = statements
    with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        with pytest.raises(adbc_driver_manager.Error) as raised:
            _run(cursor, last)

    assert can_pass(raised.value) == passes


def _run(cursor: adbc.Cursor, statement: str) -> None:
    """Runs it to its end: the driver reports that a SELECT failed only when its rows are fetched."""
    cursor.execute(statement)
    cursor.fetch_arrow_table()


@pytest.mark.wide
@pytest.mark.integration
@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        ((403, "AccessDenied"), 1),
        ((403, "InvalidAccessKeyId"), 1),
        ((404, "NoSuchBucket"), 1),
        ((501, "NotImplemented"), 1),
        ((503, "SlowDown"), 75),
        ((507, "XMinioStorageFull"), 75),
        ((403, "RequestTimeTooSkewed"), 75),
    ],
)
def test_a_bucket_that_refuses_is_told_by_what_it_answers(
    api: Api, command: Command, environment: dict[str, str], bucket: Bucket, tmp_path: Path, refusal: Refusal, code: int
) -> None:
    """The warehouse is loaded in any case."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=1), ago(minutes=1)))
    with gate_before(bucket.endpoint) as gate:
        gate.refuse = lambda _: refusal
        environment.update(bucket.settings(prefix=tmp_path.name), S3_ENDPOINT=gate.url)
        done = command(*ONCE)

    assert done.code == code, done.err
    assert done.err.count("destination.failed") == 1
    assert "5 new, lake 0 new" in done.out


@pytest.mark.integration
@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("ALTER TABLE {schema}.audit_logs RENAME COLUMN raw_event TO payload", 1),
        ("ALTER TABLE {schema}.audit_logs DROP COLUMN ingestion_time CASCADE", 1),
    ],
)
def test_a_table_that_does_not_fit_is_no_matter_of_time(
    api: Api, command: Command, stores: Stores, statement: str, code: int
) -> None:
    """A required column is gone: exit 1, and the lake goes on."""
    assert command(*ONCE).code == 0
    stores.query(statement)
    api.world.add(ACCOUNT, "v1", spread(5, ago(minutes=9), ago(minutes=1)))

    done = command(*ONCE)

    assert done.code == code, done.err
    assert len(stores.lake_ids()) == 5  # as above


@pytest.mark.integration
def test_a_folder_in_the_way_of_the_lake_is_no_matter_of_time(
    api: Api, command: Command, environment: Mapping[str, str], stores: Stores
) -> None:
    """A file where a folder should be: exit 1; gone, all is well again."""
    lake = Path(environment["DATA_DIR"]) / "lake"
    lake.mkdir(parents=True)
    (lake / "cloudflare").write_text("in the way")
    api.world.add(ACCOUNT, "v1", spread(5, ago(minutes=9), ago(minutes=1)))

    told = command(*ONCE)
    (lake / "cloudflare").unlink()
    again = command(*ONCE)

    assert (told.code, again.code) == (1, 0), told.err
    assert len(stores.lake_ids()) == 5  # as above


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([TemporaryError("down"), OSError(errno.ENOSPC, "No space left on device")], 75),
        ([TemporaryError("down"), AuditLogsError("refused")], 1),
        ([PermissionError(errno.EACCES, "Permission denied")], 1),
        ([KeyError("a defect")], 1),
        ([AuditLogsError("refused"), WrongUsageError("no account")], 2),
    ],
)
def test_a_command_tries_later_only_if_all_its_errors_can_pass(errors: list[Exception], code: int) -> None:
    """One function says so for all commands."""
    assert exit_code_of(*errors) == code
