"""What stands in the place of a store is told alike by all who look for that store."""

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from pipelines.checks.finding import failed
from pipelines.lake.partitions import Partition
from pipelines.seals.pure.notes import VerifierKey
from tests.factory import ACCOUNT
from tests.stores import Stores

Command = Callable[..., Finished]
VERIFIER = str(VerifierKey("audit.example", bytes(range(32))))
_numbers = count(1)


@pytest.mark.integration
@pytest.mark.parametrize("place", ["postgres", "."])
def test_what_stands_in_the_place_of_the_cluster_is_told_by_all_alike(
    command: Command, server_dir: Path, place: str
) -> None:
    """By doctor, status and loop: none says that the first start makes it there."""
    data = server_dir / f"no-folder-{os.getpid()}-{next(_numbers)}"
    (data / place).parent.mkdir(parents=True, exist_ok=True)
    (data / place).touch()
    own = {"PG_HOST": None, "PG_PORT": None, "PG_PASSWORD": None, "PG_SCHEMA": None, "DATA_DIR": str(data)}

    doctor = command("pipelines/doctor.py", "--patience", "120", **own)
    status, loop = command("pipelines/status.py", **own), command("pipelines/run.py", "--once", **own)

    said = f"{data / place} cannot be used: it is there, and is no folder"
    assert (doctor.code, status.code, loop.code) == (1, 1, 1)
    assert [said in text for text in (doctor.out, status.out, loop.err)] == [True, True, True], doctor.out + status.out


@pytest.mark.integration
@pytest.mark.parametrize("place", ["lake", "lake/cloudflare"])
def test_a_file_in_the_place_of_the_lake_is_told_by_all_alike(command: Command, stores: Stores, place: str) -> None:
    """By status and verify, as by the loop: a lake that cannot be read is neither empty nor altered."""
    file = Path(stores.environment["DATA_DIR"], place)
    file.parent.mkdir(parents=True)
    file.touch()

    status, loop = command("pipelines/status.py"), command("pipelines/run.py", "--once")
    verify = command("pipelines/verify.py", "--key", VERIFIER)

    assert (status.code, loop.code, verify.code) == (1, 1, 1), status.out + verify.out + verify.err
    assert "lake        the lake is not available" in status.out
    assert "there is no lake at" in verify.err


@pytest.mark.integration
def test_no_lake_is_verified_where_there_is_none(command: Command) -> None:
    """Before the first start nothing is missing: the lake could not be read."""
    verify = command("pipelines/verify.py", "--key", VERIFIER)

    assert (verify.code, verify.out) == (1, "")
    assert "there is no lake at" in verify.err


@pytest.mark.integration
@pytest.mark.parametrize("depth", [1, 2, 3], ids=["table", "account", "day"])
def test_a_file_in_the_place_of_the_next_objects_folder_is_told(command: Command, stores: Stores, depth: int) -> None:
    """The doctor names it, and does not take it for a folder of another user's."""
    parts = Partition(ACCOUNT, datetime.now(UTC)).path.split("/")
    file = stores.lake.joinpath("cloudflare", *parts[:depth])
    file.parent.mkdir(parents=True)
    file.touch()

    done = command("pipelines/doctor.py", "--patience", "120")

    assert done.code == 1
    assert f"fail  lake         {file} cannot be used: it is there, and is no folder" in done.out


def test_an_error_of_the_system_is_told_by_the_doctor_with_its_file_and_a_hint() -> None:
    """As by every command: its number alone helps nobody."""
    found = failed("warehouse", OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/postgres.holders"))

    assert found.found == "/data/postgres.holders cannot be used: Read-only file system"
    assert "set DATA_DIR" in found.hint
