"""Job and doctor report each of the most likely mistakes in one clear message, without a traceback."""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from benchmarks.servers.s3_gate import gate_before
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.embedded import _without_root
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

OLD_POSTGRES = os.environ.get("TEST_OLD_POSTGRES_DSN", "")
"""The URL of a PostgreSQL before 12: no package of today has one."""
EXECUTE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
WITHOUT_SPACE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); " + EXECUTE
"""Files cannot grow, as on a full disk."""


@dataclass
class Scene:
    """Where a mistake is made."""

    request: pytest.FixtureRequest
    api: Api
    environment: Mapping[str, str]
    stores: Stores
    tmp_path: Path
    stack: ExitStack
    before: list[str] = field(default_factory=list)
    """Options of Python, before the command."""
    root: Path = PROJECT_ROOT


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, api: Api, environment: dict[str, str], stores: Stores, tmp_path: Path
) -> Iterator[Scene]:
    """All is well, and there are events."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=1), ago(minutes=1)))
    with ExitStack() as stack:
        yield Scene(request, api, environment, stores, tmp_path, stack)


Changes = dict[str, str | None]


class Mistake(NamedTuple):
    """A mistake, and the messages of job and doctor."""

    make: Callable[[Scene], Changes]
    code: int
    says: str
    found: str
    """The doctor's line begins with it."""
    doctor_says: str
    doctor_code: int = 1
    stores: int = 1
    """The number of stores that the job reports it for."""
    options: tuple[str, ...] = ("--once",)
    """The job's options."""


def _permission(scene: Scene) -> Changes:
    scene.api.behaviour.token_has_permission = False
    return {}


def _clock(scene: Scene) -> Changes:
    scene.api.behaviour.clock_offset_seconds = -3600
    return {}


def _https(scene: Scene) -> Changes:
    url = scene.environment["CLOUDFLARE_API_URL"].replace("http://", "https://")
    return {"CLOUDFLARE_API_URL": url, "CLOUDFLARE_MAX_RETRIES": "0"}


def _bucket(scene: Scene) -> Changes:
    """SeaweedFS would make it for its administrator; others say that it is not there, and so does a gate."""
    bucket = scene.request.getfixturevalue("bucket")
    gate = scene.stack.enter_context(gate_before(bucket.endpoint))
    gate.refuse = lambda request: (404, "NoSuchBucket") if request.bucket != bucket.name else None
    return {**bucket.settings(prefix="mistake"), "S3_ENDPOINT": gate.url, "S3_BUCKET": "no-such-bucket"}


def _bucket_key(scene: Scene) -> Changes:
    settings = scene.request.getfixturevalue("bucket").settings(prefix="mistake")
    return {**settings, "S3_SECRET_KEY": "wrong"}


def _no_bucket_key(scene: Scene) -> Changes:
    """None of AWS's own places has one either."""
    settings = scene.request.getfixturevalue("bucket").settings(prefix="mistake")
    nowhere = {"HOME": str(scene.tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    return {**settings, **nowhere, "S3_ACCESS_KEY": None, "S3_SECRET_KEY": None}


def _full_disk(scene: Scene) -> Changes:
    scene.api.world.add(ACCOUNT, "v1", spread(20, ago(hours=1), ago(minutes=1), newValue=os.urandom(5_000).hex()))
    scene.before = ["-c", WITHOUT_SPACE, sys.executable]
    return {}


def _folder(scene: Scene) -> Changes:
    """Makes the folder another user's; root, who may write everything, becomes `nobody`."""
    data = Path(scene.environment["DATA_DIR"])
    (data / "lake").mkdir(parents=True)
    (data / "lake").chmod(0o700 if os.geteuid() == 0 else 0)
    data.chmod(0o777)
    scene.before = ["-c", EXECUTE, *_without_root(), sys.executable]
    return {}


def _file_instead_of(name: str) -> Callable[[Scene], Changes]:
    def make(scene: Scene) -> Changes:
        place = Path(scene.environment["DATA_DIR"], name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        return {}

    return make


def _schema(scene: Scene) -> Changes:
    role = f"reader_{scene.stores.schema}"
    scene.stores.query(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    scene.stores.query("CREATE SCHEMA {schema}")
    return {"PG_USER": role, "PG_PASSWORD": "secret"}


def _old_postgres(_: Scene) -> Changes:
    if not OLD_POSTGRES:
        pytest.skip("TEST_OLD_POSTGRES_DSN names no server")
    url = urlsplit(OLD_POSTGRES)
    return {"PG_HOST": url.hostname, "PG_PORT": str(url.port), "PG_USER": url.username, "PG_PASSWORD": url.password}


def _env_file(scene: Scene) -> Changes:
    """In a copy of the project: the one that is tested may have one of its own."""
    scene.root = scene.tmp_path / "project"
    for name in ("pipelines", "sources", ".dlt"):
        shutil.copytree(PROJECT_ROOT / name, scene.root / name)
    (scene.root / ".env").write_text("CLOUDFLARE_API_TOKEN: secret-of-mine\n")
    return {"PYTHONPATH": str(scene.root), "CLOUDFLARE_API_TOKEN": None}


def _port(scene: Scene) -> Changes:
    server = scene.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return {"METRICS_PORT": str(server.getsockname()[1])}


def _second(scene: Scene) -> Changes:
    scene.stack.enter_context(process_of(scene.environment, "pipelines/run.py"))
    wait_until(lambda: len(scene.stores.ids()[0]) == 20)
    return {}


MISTAKES = {
    "a wrong token": Mistake(
        lambda _: {"CLOUDFLARE_API_TOKEN": "a-wrong-one"},
        1,
        "check CLOUDFLARE_API_TOKEN",
        "fail  token",
        "copy CLOUDFLARE_API_TOKEN again",
    ),
    "a wrong permission": Mistake(
        _permission, 1, "Account Settings: Read", f"fail  account      {ACCOUNT} v1", "Account Settings: Read"
    ),
    "a wrong account": Mistake(
        lambda _: {"CLOUDFLARE_ACCOUNT_ID": "f" * 32},
        1,
        "does not know this account",
        f"fail  account      {'f' * 32} v1",
        "check CLOUDFLARE_ACCOUNT_ID",
    ),
    "a wrong host of the API": Mistake(
        lambda _: {"CLOUDFLARE_API_URL": "https://cloudflare.invalid/client/v4", "CLOUDFLARE_MAX_RETRIES": "0"},
        75,
        "the API cannot be reached",
        "fail  api",
        "check CLOUDFLARE_API_URL",
    ),
    "an API without TLS": Mistake(_https, 75, "the API cannot be reached", "fail  api", "check CLOUDFLARE_API_URL"),
    "a wrong clock": Mistake(_clock, 75, "s ahead of the API's", "fail  clock", "set the clock"),
    "a wrong host of the warehouse": Mistake(
        lambda _: {"PG_HOST": "warehouse.invalid"}, 75, "check PG_HOST", "fail  warehouse", "check PG_HOST"
    ),
    "a wrong password": Mistake(
        lambda _: {"PG_PASSWORD": "a-wrong-one"},
        75,
        "password authentication failed",
        "fail  warehouse",
        "password authentication failed",
    ),
    "a wrong owner of the tables": Mistake(
        lambda _: {"PG_OWNER_USER": "no_such_role", "PG_OWNER_PASSWORD": "wrong"},
        75,
        "authentication failed for user",
        "fail  owner",
        "check PG_OWNER_USER and PG_OWNER_PASSWORD",
    ),
    "a warehouse without TLS": Mistake(
        lambda _: {"PG_SSLMODE": "require"}, 75, "PG_SSLMODE", "fail  warehouse", "PG_SSLMODE"
    ),
    "no rights in the schema": Mistake(
        _schema, 1, "there is no table", "fail  rights", "set PG_OWNER_USER and PG_OWNER_PASSWORD"
    ),
    "an old PostgreSQL": Mistake(_old_postgres, 1, "is too old", "fail  postgresql", "is too old"),
    "a wrong bucket": Mistake(_bucket, 1, "check S3_ENDPOINT, S3_BUCKET", "fail  lake", "NoSuchBucket"),
    "a wrong key of the bucket": Mistake(
        _bucket_key, 1, "does not match the signature", "fail  lake", "does not match the signature"
    ),
    "no key of the bucket": Mistake(
        _no_bucket_key, 1, "set S3_ACCESS_KEY and S3_SECRET_KEY", "fail  lake", "set S3_ACCESS_KEY and S3_SECRET_KEY"
    ),
    "a port in use": Mistake(_port, 1, "METRICS_PORT", "fail  port", "METRICS_PORT", options=()),
    "a full disk": Mistake(
        _full_disk, 75, "File too large", "fail  disk", "check its rights and space", stores=2
    ),  # both need the spool
    "an unreadable folder": Mistake(_folder, 1, "Permission denied", "fail  lake", "Permission denied"),
    "a file instead of the spool": Mistake(
        _file_instead_of("dlt/spool"),
        1,
        "dlt/spool cannot be used: it is there, and is no folder",
        "fail  disk",
        "spool",
    ),
    "a file instead of dlt's folder": Mistake(
        _file_instead_of("dlt"), 1, "cannot be used: what stands above it is no folder", "fail  disk", "dlt cannot be"
    ),
    "a malformed .env": Mistake(
        _env_file, 2, ".env, line 1: write it as NAME=value", "", ".env, line 1: write it as NAME=value", doctor_code=2
    ),
    "a second runner": Mistake(
        _second, 75, "another process on this host loads", "ok    runner", "the job runs here", 0, stores=2
    ),
}


@pytest.mark.wide
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_one_message(scene: Scene, command: Callable[..., Finished], mistake: Mistake) -> None:
    """With the exit code, what is wrong and what to do; and nothing else fails of it."""
    changes = mistake.make(scene)

    examined = command(*scene.before, str(scene.root / "pipelines/doctor.py"), **changes)
    run = command(*scene.before, str(scene.root / "pipelines/run.py"), *mistake.options, **changes)

    print(run.err, examined.out, examined.err)
    assert (run.code, examined.code) == (mistake.code, mistake.doctor_code)
    said = [line for line in run.err.splitlines() if _is_failure(line)]
    (found,) = [line for line in (examined.out + examined.err).splitlines() if mistake.doctor_says in line]
    assert len(said) == mistake.stores
    assert all(mistake.says in line for line in said)
    assert found.lstrip().startswith(mistake.found)
    assert examined.out.count("fail  ") == (mistake.doctor_code == 1)
    assert "Traceback" not in run.err + examined.err
    assert "secret-of-mine" not in run.err + examined.err


def _is_failure(line: str) -> bool:
    """An error of the log, or a setting that is wrong."""
    return " ERROR " in line or line.startswith("  ")
