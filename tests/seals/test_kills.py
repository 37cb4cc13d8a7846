"""Killed between any two writes, sealing goes on: each hour is sealed once, and nothing becomes an alarm."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from benchmarks.servers.seaweed import Bucket
from pipelines.seals.key_file import read_key
from pipelines.seals.pure.notes import SignerKey
from pipelines.seals.pure.seal_format import Seal, sealed
from tests.rows import rows
from tests.stores import Stores

from .sealed_lake import SealedLake, rewrite

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)
POINTS = rows(
    ("before a seal's file", 2),
    ("after a seal's file", 2),
    long=[
        ("before a seal's file", 1),
        ("with a seal half in place", 1),
        ("with a seal half in place", 2),
        ("after a seal's file", 1),
        ("before the copies of a seal", 1),
        ("before the copies of a seal", 2),
        ("after the copies of a seal", 2),
    ],
)
ROTATION = rows(
    ("after a seal's file", 1),
    long=[
        ("with a new key beside the old one", 1),
        ("before a seal's file", 1),
        ("before the new key is in place", 1),
    ],
)


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_a_killed_sealer_leaves_nothing_behind(unsealed_lake: SealedLake, stores: Stores, point: str, nth: int) -> None:
    """The next run ends what was begun: no number is skipped, no hour is sealed twice, the warehouse has each line."""
    lake = unsealed_lake
    lake.init()

    lake.killed(point, nth, "run", "--once")
    lake.run()

    entries = [entry for entry in lake.entries() if "seal" in entry]
    assert len({entry["hour"] for entry in entries}) == len(entries) >= 10
    assert lake.verdicts() == set()
    lines = stores.query("SELECT number, count(*) AS lines FROM {schema}.audit_seals GROUP BY 1 ORDER BY 1")
    bodies = [path.read_text().partition("\n\n")[0].count("\n") + 1 for path in lake.seals]
    assert [(row["number"], row["lines"]) for row in lines] == list(enumerate(bodies))


@pytest.mark.parametrize(
    ("point", "nth"),
    rows(
        ("after a seal's PUT", 2),
        long=[("before a seal's PUT", 2), ("before a seal's PUT", 1), ("after a seal's PUT", 1), ("after a PUT", 8)],
    ),
)
def test_a_killed_sealer_of_a_bucket_leaves_nothing_behind(
    unsealed_lake: SealedLake,
    environment: dict[str, str],
    bucket: Bucket,
    stores: Stores,
    point: str,
    nth: int,
) -> None:
    """As in a folder: of the leaves' object and the seal, either may be the last that was written."""
    environment |= bucket.settings(f"{stores.schema}-kill")
    unsealed_lake.init()

    unsealed_lake.killed(point, nth, "run", "--once")
    unsealed_lake.run()

    where = ("--lake", f"s3://{bucket.name}/{stores.schema}-kill", "--key", unsealed_lake.public_key, "--json")
    found = unsealed_lake.command("pipelines/verify.py", *where)
    assert found.code == 0, found.out
    assert json.loads(found.out)["hours"]["intact"] >= 10
    hours = "SELECT hour, count(*) AS lines FROM {schema}.audit_seals WHERE kind = 'hour' GROUP BY 1"
    assert {row["lines"] for row in stores.query(hours)} == {1}


@pytest.mark.parametrize("what", ["a line", "a rotation to our own key"])
def test_a_forged_newest_seal_stops_the_loop_and_is_not_copied(
    sealed_lake: SealedLake, stores: Stores, what: str
) -> None:
    """Put at the next number by an attacker; the loop goes on loading, and seals again once it is gone."""
    entry = {"rotate_to": sealed_lake.public_key} if "rotation" in what else {"forged": 1}
    newest = Seal.parse(sealed_lake.seals[-1].read_bytes())
    forger = SignerKey.generate(newest.header.origin)
    number = newest.number + 1
    header = replace(
        newest.header, number=number, previous=newest.digest, frontier=newest.tree.frontier, leaves="", sealed_at=NOW
    )
    path = sealed_lake.root / "cloudflare" / newest.next_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed(header, [entry], forger).raw)

    forged = sealed_lake.run()

    assert "seal.failed" in forged.err
    assert len(sealed_lake.seals) == number + 1
    assert stores.query("SELECT max(number) AS number FROM {schema}.audit_seals") == [{"number": newest.number}]
    path.unlink()
    after = sealed_lake.run().err
    assert "seal.failed" not in after
    assert "seal.restored" not in after
    assert sealed_lake.verdicts() == set()


@pytest.mark.parametrize(("point", "nth"), ROTATION)
def test_a_killed_rotation_goes_on(sealed_lake: SealedLake, point: str, nth: int) -> None:
    """By the next call or the next seal; the old public key is all that a verifier needs."""
    first = sealed_lake.public_key
    sealed_lake.killed(point, nth, "seal", "--rotate")

    assert sealed_lake.command("pipelines/seal.py", "--rotate").code == 0
    sealed_lake.run()

    key = read_key(sealed_lake.key_file)
    assert str(key.past[0]) == first
    assert str(key.signer.verifier) != first
    assert sealed_lake.verdicts() == {"rotated"}


@pytest.mark.parametrize("point", rows("after a repair's seal", long=["after a store is filled"]))
def test_a_killed_repair_is_no_alarm_once_it_was_repeated(
    sealed_lake: SealedLake, window: list[str], point: str
) -> None:
    """What goes was named in a seal before it went, so the reason is there whenever the kill comes."""
    rewrite(sealed_lake.objects[1], lambda rows: [{**rows[0], "raw_event": '{"forged":1}'}, *rows[1:]])
    assert sealed_lake.verdicts() == {"altered"}

    sealed_lake.killed(point, 1, "reconcile", *window, "--repair", "--content")
    repaired = sealed_lake.command("pipelines/reconcile.py", *window, "--repair", "--content")

    assert repaired.code == 0, repaired.err
    assert sealed_lake.verdicts() == set()
