"""Where a sealed lake lies makes no difference: a bucket, a copy on a laptop without network or settings."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.s3_policy import policy
from pipelines.settings.settings import PROJECT_ROOT
from tests.stores import Stores

from .sealed_lake import SealedLake

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]


def test_a_downloaded_copy_is_verified_without_network_and_settings(sealed_lake: SealedLake, tmp_path: Path) -> None:
    """By verify.py and by the auditor's file, in a process that has neither; the copy's files have other times."""
    copy = tmp_path / "usb-stick"
    shutil.copytree(sealed_lake.root, copy, copy_function=shutil.copy)
    alone = ["unshare", "--user", "--net"] if shutil.which("unshare") else []
    if alone and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []  # a machine that lets nobody
    ours = [sys.executable, "pipelines/verify.py", "--lake", str(copy), "--key", sealed_lake.public_key]
    theirs = [sys.executable, "deploy/auditor/verify_seals.py", str(copy / "cloudflare"), sealed_lake.public_key]

    def codes() -> list[int]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
        runs = ([*alone, *command] for command in (ours, [*ours, "--quick"], theirs))
        return [
            subprocess.run(run, cwd=PROJECT_ROOT, env=environment, capture_output=True, check=False).returncode
            for run in runs
        ]

    assert codes() == [0, 0, 0]
    next((copy / "cloudflare/audit_logs").rglob("*.parquet")).unlink()
    assert codes() == [3, 3, 3]


def test_a_bucket_is_sealed_and_verified(
    unsealed_lake: SealedLake, environment: dict[str, str], bucket: Bucket, stores: Stores, command: Command
) -> None:
    """As a folder is; and by the URL alone."""
    prefix = stores.schema
    environment |= bucket.settings(prefix)
    unsealed_lake.init()
    unsealed_lake.run()
    where = ("--lake", f"s3://{bucket.name}/{prefix}", "--key", unsealed_lake.public_key)

    whole = [command("pipelines/verify.py", *where, *more) for more in ((), ("--quick",))]
    by_settings = command("pipelines/verify.py")

    assert [done.code for done in (*whole, by_settings)] == [0, 0, 0], [done.err for done in whole]
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{prefix}/cloudflare/_seals/")["Contents"]
    assert len([item for item in listed if item["Key"].endswith(".seal")]) == 2
    gone = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{prefix}/cloudflare/audit_logs/")["Contents"]
    bucket.client.delete_object(Bucket=bucket.name, Key=gone[0]["Key"])
    assert [command("pipelines/verify.py", *where, *more).code for more in ((), ("--quick",))] == [3, 3]


def test_sealers_race_for_a_number_in_a_bucket(
    unsealed_lake: SealedLake, environment: dict[str, str], bucket: Bucket, stores: Stores
) -> None:
    """The conditional PUT decides; each gets numbers of its own."""
    environment |= bucket.settings(f"{stores.schema}-race")
    unsealed_lake.init()
    race = "import sys; from tests.seals.racing import race; race(*sys.argv[1:])"

    runs = [threading.Thread(target=unsealed_lake.command, args=("-c", race, name, "6")) for name in ("a", "b")]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    prefix = f"{stores.schema}-race/cloudflare/_seals/"
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=prefix)["Contents"]
    numbers = sorted(int(item["Key"].split("/")[-1][:10]) for item in listed if item["Key"].endswith(".seal"))
    assert numbers == list(range(13))
    where = ("--lake", f"s3://{bucket.name}/{stores.schema}-race", "--key", unsealed_lake.public_key)
    assert unsealed_lake.command("pipelines/verify.py", *where).code == 0


def test_the_policy_lets_nobody_delete_a_seal() -> None:
    """Of the keys that the loop has: it may put and read there."""
    statements = policy("bucket", "prefix")["Statement"]

    deleting = [name for one in statements if "s3:DeleteObject" in one["Action"] for name in one["Resource"]]
    assert deleting
    assert not [name for name in deleting if "_seals" in name or name.endswith("cloudflare/*")]


def test_the_doctor_says_how_it_is_with_seals(sealed_lake: SealedLake, command: Command) -> None:
    """Off, on, a key for all to read, a key that is none, a key in the lake."""

    def line(**changes: str | None) -> str:
        out = command("pipelines/doctor.py", "--patience", "60", **changes).out
        return next(line for line in out.splitlines() if line.split()[1] == "seals")

    in_lake = sealed_lake.root / "cloudflare" / "key"
    shutil.copy(sealed_lake.key_file, in_lake)
    in_lake.chmod(0o600)

    assert line(SEAL_KEY_FILE=None).startswith("ok    seals        off")
    assert sealed_lake.public_key in line()
    assert line(SEAL_KEY_FILE=str(in_lake)).startswith("fail")
    assert line(SEAL_KEY_FILE=str(in_lake.with_name("none"))).startswith("fail")
    sealed_lake.key_file.chmod(0o644)
    assert line().startswith("warn")
