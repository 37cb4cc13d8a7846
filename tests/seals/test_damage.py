"""An attacker has the lake and not the key: each change of what was sealed is found, and named as what it is."""

import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.seals.copies_of_lakes import named_lake
from pipelines.seals.pure.notes import SignerKey
from pipelines.seals.pure.seal_format import sealed
from pipelines.settings.settings import UsageError
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT

from .made_lake import AUDITOR, BEGIN, MadeLake, row

pytestmark = pytest.mark.integration

LONG_AGO = BEGIN


def test_an_untouched_lake_is_intact(made: MadeLake) -> None:
    """Whole and by a quick look; the hours without events count, too."""
    assert made.verdicts() == {}
    assert made.verdicts(is_quick=True) == {}
    assert made.verify().hours == {"intact": 7}


@pytest.mark.parametrize("how", ["flip", "append", "cut"])
def test_changed_bytes_of_an_object_are_noticed(made: MadeLake, how: str) -> None:
    """A flipped bit in the events, bytes behind the end, an end that is gone: none of it is intact."""
    path = made.path(1)
    body = bytearray(path.read_bytes())
    if how == "flip":
        body[len(body) // 4] ^= 1
    path.write_bytes({"flip": bytes(body), "append": bytes(body) + b"x", "cut": bytes(body[:-9])}[how])

    assert made.verdicts() == {"hour 1": "altered"}
    assert made.verdicts(is_quick=True) == {"hour 1": "altered"}


def test_an_event_that_was_replaced_is_an_alteration(made: MadeLake) -> None:
    """With the key and the time that it had: one is missing, and one is foreign."""
    held = made.held(2)
    made.put(2, [{**held[0], "raw_event": '{"forged":1}'}, held[1]])

    assert made.verdicts() == {"hour 2": "altered"}
    (problem,) = made.verify().problems
    assert (problem.missing, problem.foreign) == (1, 1)


def test_an_event_that_is_gone_is_missing(made: MadeLake) -> None:
    """And its object, where that is gone whole."""
    made.put(2, made.held(2)[:1])
    made.path(3).unlink()

    assert made.verdicts() == {"hour 2": "missing", "hour 3": "deleted"}


def test_an_event_that_was_slipped_in_is_foreign(made: MadeLake) -> None:
    """Into an hour with events, into an empty one, a double, or into the wrong object."""
    made.add(1, "forged", seen=LONG_AGO)
    made.add(6, "forged", seen=LONG_AGO)
    made.put(2, made.held(2) * 2)
    made.put(3, [*made.held(3), row(4, "misplaced", seen=made.now)])

    assert made.verdicts() == {f"hour {number}": "foreign" for number in (1, 2, 3, 6)}


def test_a_late_event_is_no_alarm(made: MadeLake) -> None:
    """Before the next seal it is later than the newest; after it, it is listed in a seal."""
    made.now += timedelta(hours=3)
    made.add(1, "late")
    assert made.verdicts()["hour 1"] == "extended"
    assert not made.verify().is_alarm or made.verdicts()["hour 8"] == "unsealed"

    made.seal()

    assert made.verdicts() == {}


def test_a_seal_that_is_gone_is_named(made: MadeLake) -> None:
    """Each one, also where ten in a row are gone; a checkpoint that was kept shows that the newest are."""
    for _ in range(14):
        made.now += timedelta(hours=1)
        made.seal()
    note = made.seals[-1].read_text().partition("\n\n")[2]

    for numbers in ([5], [5, 6], range(3, 13)):
        lake = made.copy("gone")
        for path in [lake.seals[number] for number in numbers]:
            path.unlink()
        kinds = {name: kind for name, kind in lake.verdicts().items() if name.startswith("seal")}
        assert kinds == {f"seal {number}": "missing" for number in numbers}
    made.seals[-1].unlink()
    assert "cut off" in made.verdicts(notes=[note]).values()


def test_two_seals_of_one_number_are_a_fork(made: MadeLake) -> None:
    """Both signed by the key: of two sealers of which one saw an older state."""
    older = made.copy("older")
    (older.folder / "newest").unlink()
    for lake in (made, older):
        lake.now += timedelta(hours=2)
    made.seal()
    older.add(1, "late")
    older.seal()
    twin = older.seals[-1]
    assert made.seals[-1].name == twin.name

    (made.dataset / "_seals/2026/11/22").mkdir(parents=True)
    (made.dataset / "_seals/2026/11/22" / twin.name).write_bytes(twin.read_bytes())

    assert "fork" in made.verdicts().values()


def test_a_changed_seal_is_broken(made: MadeLake) -> None:
    """In its body, its note, or behind its end: the next and the signature no longer fit."""
    made.now += timedelta(hours=2)
    made.seal()
    for number in (1, 2):
        whole = made.seals[number].read_bytes()
        for changed in (whole.replace(b'"events":2', b'"events":1', 1), whole + b"x", whole[:-5], b""):
            if changed != whole:
                made.seals[number].write_bytes(changed)
                assert made.verdicts()[f"seal {number}"] == "broken chain"
        made.seals[number].write_bytes(whole)
    assert made.verdicts() == {}


def test_a_seal_of_another_key_is_not_believed(made: MadeLake) -> None:
    """An attacker who makes the chain anew with a key of his own."""
    other = MadeLake(made.folder.with_name("attacker"), made.rows)
    key = other.init()
    kinds = made.verdicts(keys=other.public_keys)

    assert key
    assert {kinds[f"seal {number}"] for number in (0, 1)} == {"unknown key"}
    assert {kind for name, kind in kinds.items() if name.startswith("hour")} == {"unsealed"}


def test_leaves_that_are_gone_are_named_and_the_hours_still_proved(made: MadeLake) -> None:
    """They only tell which event is missing: the root alone says that one is."""
    (leaves,) = (made.dataset / "_seals").rglob("*.leaves")
    leaves.unlink()
    assert made.verdicts() == {"seal 1": "missing"}

    made.put(2, made.held(2)[:1])

    assert made.verdicts()["hour 2"] in {"missing", "altered"}


def test_a_rewritten_object_is_no_alarm(made: MadeLake) -> None:
    """The same events in other bytes."""
    made.now += timedelta(minutes=1)
    made.put(1, reversed(made.held(1)))
    os.utime(made.path(1))

    assert made.verify().hours["intact"] + made.verify().hours["rewritten"] == 7
    assert made.verdicts() == {}
    made.seal()
    assert made.verdicts() == {}


def test_an_alteration_is_never_sealed_over(made: MadeLake) -> None:
    """The sealer reports the hour, and leaves it: the verdict stays as it was."""
    made.put(2, made.held(2)[:1])
    made.now += timedelta(hours=1)

    for _ in range(2):
        made.seal()
        assert list(made.alarms.values()) == ["missing"]
        assert made.verdicts()["hour 2"] == "missing"


def test_a_file_that_is_no_object_of_an_hour_is_foreign(made: MadeLake) -> None:
    """Engines read every file below the events: another name in an hour's folder, an hour that there is not."""
    body = made.path(1).read_bytes()
    made.path(1).with_name("more.parquet").write_bytes(body)
    odd = made.path(1).parent.with_name("hour=24") / "events.parquet"
    odd.parent.mkdir()
    odd.write_bytes(body)

    assert [one.verdict for one in made.verify().problems] == ["foreign", "foreign"]
    assert not AUDITOR.verify(made.dataset, [str(key) for key in made.public_keys], [], made.now)["ok"]


def test_a_seal_that_the_key_did_not_sign_stops_the_sealer(made: MadeLake) -> None:
    """Put at the next number by an attacker: nothing is signed behind it, and nothing of it is copied."""
    head = made.chain().head()
    assert head is not None
    forger = SignerKey.generate(head.header.origin)
    header = replace(head.header, number=head.number + 1, previous=head.digest, frontier=head.tree.frontier, leaves="")
    forged = sealed(header, [{"rotate_to": str(forger.verifier)}], forger)
    made.objects.create(head.next_path, forged.raw)
    made.now += timedelta(hours=1)

    with pytest.raises(AuditLogsError):
        made.seal()

    assert made.verdicts()["seal 2"] == "unknown key"


def test_a_seal_of_another_history_does_not_fit(made: MadeLake) -> None:
    """Signed by the key, of a lake that was set back, and put in the place of ours: the next one names another."""
    made.replace_a_seal_by_one_of_another_history()

    assert made.verdicts()["seal 3"] == "broken chain"


@pytest.mark.parametrize("name", ["RAW_EVENT", "Actor_Email", "Event_Id"])
def test_a_column_beside_one_of_its_name_is_an_alteration(made: MadeLake, name: str) -> None:
    """DuckDB, which knows no case, would read the forged one, and pyarrow the sealed one."""
    table = pq.ParquetFile(made.path(1)).read()
    forged = pa.array(["forged"] * table.num_rows, pa.string())
    pq.write_table(table.add_column(0, name, forged), made.path(1))

    assert made.verdicts() == {"hour 1": "altered"}


@pytest.mark.parametrize("column", ["timestamp", "raw_event"])
@pytest.mark.parametrize("kind", ["string", "binary", "null"])
def test_a_column_of_another_type_crashes_neither(made: MadeLake, column: str, kind: str) -> None:
    """Both tools say the same of it, whatever a reader makes of such a column."""
    table = pq.ParquetFile(made.path(1)).read()
    at, own = table.schema.get_field_index(column), table.schema.field(column).type
    values = {
        "string": pa.array(["x"] * table.num_rows),
        "binary": pa.array([b"\xff"] * table.num_rows),
        "null": pa.nulls(table.num_rows, own),
    }
    pq.write_table(table.set_column(at, column, values[kind]), made.path(1))

    assert made.verdicts() == {"hour 1": "altered"}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("_seals/9999999999.seal", b""),
        ("_seals/2026/11/21/0000000900.seal", b'{"seq":Infinity}\n\nx'),
        ("_seals/2026/11/21/0000000900.seal", b"[" * 50_000),
        ("_seals/2026/11/21/0000000900.seal", b'{"format":"cloudflare-audit-seal/1","seq":900,"incarnations":5}\n\nx'),
        (f"audit_logs/account={ACCOUNT}/date=9999-12-31/hour=23/events.parquet", b""),
        (f"audit_logs/account={ACCOUNT}/date=2026-02-30/hour=23/events.parquet", b""),
    ],
)
def test_nothing_that_is_planted_ends_a_verification(made: MadeLake, name: str, body: bytes) -> None:
    """Whatever a name or its bytes claim, both tools end with an alarm, and say what it is."""
    path = made.dataset / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)

    assert made.verify().is_alarm
    assert not AUDITOR.verify(made.dataset, [str(key) for key in made.public_keys], [], made.now)["ok"]


def test_what_is_no_file_is_not_waited_for(made: MadeLake) -> None:
    """A pipe in the place of an object or a seal; a folder that leads back to itself; digits of another script."""
    made.path(1).unlink()
    os.mkfifo(made.path(1))
    assert made.verdicts() == {"hour 1": "deleted"}

    (made.dataset / "_seals/²²²²²²²²²².seal").touch()
    assert made.verdicts() == {"hour 1": "deleted"}

    (made.dataset / "audit_logs/loop").symlink_to(".")
    assert [problem.verdict for problem in made.verify().problems] == ["foreign", "deleted"]


def test_a_lake_within_a_lake_is_not_chosen(made: MadeLake, tmp_path: Path) -> None:
    """One of the two would be verified, and the other one read."""
    shutil.copytree(made.dataset, tmp_path / "copy/cloudflare")
    assert named_lake(str(tmp_path / "copy/cloudflare")).url("") == named_lake(str(tmp_path / "copy")).url("")
    shutil.copytree(made.dataset, tmp_path / "copy/cloudflare/cloudflare")

    with pytest.raises(UsageError, match="another one"):
        named_lake(str(tmp_path / "copy/cloudflare"))
