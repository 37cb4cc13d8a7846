"""An attacker has bucket and database, not the key and not the host: the loop never signs what he changed."""

import shutil
from datetime import timedelta

import pytest

from pipelines.lake.partitions import HOUR
from pipelines.seals.pure.merkle import Tree
from pipelines.seals.pure.notes import Checkpoint, SignerKey

from .made_lake import BEGIN, MadeLake

pytestmark = pytest.mark.integration

TABLE = "{schema}.audit_seals"
INSERT = f"INSERT INTO {TABLE} (incarnation, number, line, sealed_at, kind, account_id, hour, hour_seal, events, path)"
ATTACKS = {
    "rows of the hour deleted": [f"DELETE FROM {TABLE} WHERE hour = %(hour)s"],
    "all rows deleted": [f"DELETE FROM {TABLE}"],
    "all rows but those of seals deleted": [f"DELETE FROM {TABLE} WHERE line > 0"],
    "the table set back": [f"DELETE FROM {TABLE} WHERE number >= 1"],
    "the object's size and version forged": [
        f"UPDATE {TABLE} SET object_bytes = 1, object_version = 'x', root = '00' WHERE hour = %(hour)s"
    ],
    "the numbers forged": [
        f"UPDATE {TABLE} SET number = (SELECT max(number) FROM {TABLE}) + 1000 + number WHERE hour = %(hour)s"
    ],
    "the kind forged": [f"UPDATE {TABLE} SET kind = 'other', events = 0"],
    "a later hour added": [
        (
            f"{INSERT} SELECT incarnation, number, 99, sealed_at, 'hour', account_id,"
            f" %(hour)s + interval '9 days', 1, 1, path FROM {TABLE}"
            " WHERE kind = 'hour' AND incarnation = %(mine)s LIMIT 1"
        )
    ],
    "an amendment added": [
        (
            f"{INSERT} SELECT incarnation, number, 99, sealed_at, 'amendment', account_id, %(hour)s, 1, 1, path"
            f" FROM {TABLE} WHERE kind = 'hour' AND incarnation = %(mine)s LIMIT 1"
        )
    ],
    "a seal added that there is not": [
        (
            f"{INSERT} SELECT incarnation, 77, 0, sealed_at, 'seal', NULL, NULL, NULL, 0, 'none'"
            f" FROM {TABLE} WHERE incarnation = %(mine)s LIMIT 1"
        ),
    ],
    "a seal's digest forged": [f"UPDATE {TABLE} SET digest = 'x' WHERE line = 0"],
}


def alter(made: MadeLake, hour: int) -> None:
    """Replaces an event, as a load would write it."""
    made.put(hour, [{**made.held(hour)[0], "raw_event": '{"forged":1}', "ingestion_time": made.now}])


@pytest.mark.parametrize("host", ["the same host", "a new host"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_changed_table_never_makes_the_loop_sign_an_alteration(made: MadeLake, name: str, host: str) -> None:
    """The hour stays an alarm, no seal speaks of it again, and the others are sealed as ever."""
    for sql in ATTACKS[name]:
        made.attack(sql, hour=BEGIN + HOUR * 2)
    alter(made, 2)
    if host == "a new host":
        (made.folder / "index").unlink()
        (made.folder / "newest").unlink()

    for _ in range(2):
        made.now += HOUR
        seal = made.seal()

        assert seal is not None
        assert [(entry["hour"], entry["seal"]) for entry in seal.entries] == [(f"{made.now - 2 * HOUR:%FT%TZ}", 1)]
        assert made.alarms == {BEGIN + HOUR * 2: "altered"}
        assert made.verdicts() == {"hour 2": "altered"}


def test_a_table_set_back_is_whole_again(made: MadeLake) -> None:
    """The copy is completed from the seals, also where only some lines of a seal are gone."""
    before = made.lines()
    made.attack("DELETE FROM {schema}.audit_seals WHERE hour = %(hour)s", hour=BEGIN + HOUR * 2)
    assert len(made.lines()) == len(before) - 1

    made.seal()

    assert made.lines() == before


@pytest.mark.parametrize("how", ["deleted", "garbage", "another seal"])
def test_a_seal_that_is_gone_lets_nobody_sign_its_hours_anew(made: MadeLake, how: str) -> None:
    """Neither on the host that knew it, nor on a new one; later hours are sealed."""
    made.add(7, "a7")
    for _ in range(3):
        made.now += HOUR
        made.seal()
    gone = made.seals[1]
    other = made.seals[2].read_bytes()
    if how == "deleted":
        gone.unlink()
    else:
        gone.write_bytes(b"x" if how == "garbage" else other)
    alter(made, 2)
    made.attack("DELETE FROM {schema}.audit_seals")

    for host in ("the same", "a new"):
        if host == "a new":
            (made.folder / "index").unlink()
        made.now += HOUR
        seal = made.seal()

        assert seal is not None, host
        assert [entry["hour"] for entry in seal.entries] == [f"{made.now - 2 * HOUR:%FT%TZ}"], host
        assert BEGIN + HOUR * 2 in made.alarms, host


def test_only_a_kept_checkpoint_shows_that_everything_was_set_back(made: MadeLake) -> None:
    """Bucket, table and host: there is nothing left that remembers."""
    older = made.copy("older")
    made.now += timedelta(hours=2)
    made.seal()
    note = made.seals[-1].read_text().partition("\n\n")[2]
    made.attack("DELETE FROM {schema}.audit_seals WHERE number > 1")
    shutil.rmtree(made.folder)
    shutil.copytree(older.folder, made.folder)
    assert made.verdicts(notes=[note])["seal 2"] == "cut off"
    made.add(5, "other", seen=made.now)

    made.seal()

    assert made.verdicts() == {}
    assert made.verdicts(notes=[note])["seal 2"] == "fork"


def test_a_damaged_index_is_made_anew(made: MadeLake) -> None:
    """From the seals: what was sealed is not sealed again."""
    (made.folder / "index").write_bytes(b"no database at all" * 99)

    assert made.seal() is None
    assert made.verdicts() == {}


def test_a_seal_of_another_history_freezes_what_was_before_it(made: MadeLake) -> None:
    """Signed by the key, of a lake that was set back, and put in the place of ours: the next one names another."""
    made.replace_a_seal_by_one_of_another_history()
    (made.folder / "index").unlink()
    made.add(3, "late")
    made.now += 2 * HOUR

    seal = made.seal()

    assert seal is not None
    assert [entry["hour"] for entry in seal.entries] == [f"{made.now - 2 * HOUR:%FT%TZ}"]
    assert BEGIN + HOUR * 3 in made.alarms


def test_a_row_with_a_checkpoint_of_another_key_makes_no_other_history(made: MadeLake) -> None:
    """Only what our key has signed says that the lake was newer once."""
    forger = SignerKey.generate("audit.example.com/lake")
    note = Checkpoint.of(Tree.of([b"x" * 32] * 78), forger)
    columns = "incarnation, number, line, sealed_at, kind, path, note"
    row = "SELECT incarnation, 77, 0, sealed_at, 'seal', 'none', %(note)s"
    made.attack(f"INSERT INTO {TABLE} ({columns}) {row} FROM {TABLE} WHERE incarnation = %(mine)s LIMIT 1", note=note)
    made.now += HOUR

    made.seal()

    assert made.verdicts() == {}
