"""Changes that are as they should be: late events, backfills, repairs, keys, restores, rivals, copies."""

import os
import shutil
import threading
from datetime import timedelta
from functools import partial

import pytest

from pipelines.lake.day_copies import write_copy
from pipelines.lake.partitions import HOUR
from pipelines.seals.copied_rows import complete_rows
from pipelines.seals.keeping import amend, replace_lost, rotate
from pipelines.seals.key_file import read_key
from pipelines.seals.pure.seal_format import Entry, Seal
from pipelines.seals.sealer import append_entries
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT

from .made_lake import BEGIN, MadeLake, row

pytestmark = pytest.mark.integration


def test_a_seal_that_would_say_nothing_is_not_made(made: MadeLake) -> None:
    """The same pass again adds no number."""
    count = len(made.seals)

    assert made.seal() is None

    assert len(made.seals) == count


def test_a_backfill_of_sealed_hours_is_listed_as_later(made: MadeLake) -> None:
    """Into an hour with events, an empty one, and one from before the beginning: extended until the next seal."""
    made.add(2, "backfilled")
    made.add(6, "c6", "d6")
    made.add(-1, "older")
    assert made.verdicts() == {"hour 2": "extended", "hour 6": "extended", "hour -1": "unsealed"}

    made.now += timedelta(minutes=1)
    seal = made.seal()

    assert seal is not None
    said = {entry["hour"]: entry for entry in seal.entries}
    assert [len(entry.get("added", "all")) for entry in said.values()] == [3, 1, 3]
    assert [entry["seal"] for entry in said.values()] == [1, 2, 2]
    assert made.verdicts() == {}


def test_a_repair_is_amended_and_then_sealed(made: MadeLake) -> None:
    """What it takes out is named with its reason, before and after."""
    gone = made.leaf(2, "a2")
    made.amend(2, removes=[gone])
    assert made.verdicts() == {}
    made.put(2, made.held(2)[1:])
    assert made.verdicts() == {"hour 2": "amended"}

    seal = made.seal()

    assert seal is not None
    assert [(entry["removed"], entry["why"]) for entry in seal.entries] == [([gone.hex()], "repair")]
    assert made.verdicts() == {}


def test_an_object_that_was_lost_can_be_amended(made: MadeLake) -> None:
    """By an operator, with a reason that stands in the chain; the hour is then stated anew."""
    made.path(3).write_bytes(b"torn")
    assert made.verdicts() == {"hour 3": "altered"}

    amend(made.chain(), ACCOUNT, BEGIN + HOUR * 3, "the disk broke")
    made.put(3, [row(3, "b3", seen=BEGIN + HOUR * 3)])
    assert made.verdicts() == {"hour 3": "amended"}
    seal = made.seal()

    assert seal is not None
    assert [entry["why"] for entry in seal.entries] == ["the disk broke"]
    assert made.verdicts() == {}
    made.path(3).unlink()
    assert made.verdicts() == {"hour 3": "deleted"}


def test_the_old_key_is_enough_after_a_rotation(made: MadeLake) -> None:
    """It signs the new one, which vouches for what comes after; what the old one signs later, nobody takes."""
    old = made.public_keys
    stolen = made.key_file.read_text()
    new = rotate(made.chain(), made.key_file)
    for _ in range(2):
        made.now += timedelta(hours=1)
        made.seal()

    assert made.verdicts(keys=old) == {"seal 2": "rotated"}
    assert made.verdicts(keys=[*old, new]) == {"seal 2": "rotated"}
    kinds = made.verdicts(keys=[new])
    assert {kinds[f"seal {number}"] for number in range(3)} == {"unknown key"}
    made.key_file.write_text(stolen)
    with pytest.raises(AuditLogsError):
        made.chain().key(made.chain().head())
    thief = read_key(made.key_file)
    made.chain().append(lambda _: ([{"test": "forged"}], b""), with_key=thief, why="the key was lost")
    assert made.verdicts(keys=[*old, new])["seal 5"] == "bad signature"


def test_a_lost_key_is_said_out_loud(made: MadeLake) -> None:
    """Another key goes on under the same numbers, as another history; both are needed to verify all."""
    old = made.public_keys
    made.key_file.unlink()
    new = replace_lost(made.chain(), made.key_file, "audit.example.com/lake")
    made.now += timedelta(hours=1)
    made.seal()

    assert made.verdicts(keys=[*old, new]) == {"seal 2": "restored"}
    assert "lost" in made.verify(keys=[*old, new]).chain[0].text
    assert made.verdicts(keys=old)["seal 2"] == "unknown key"


@pytest.mark.parametrize("witness", ["this host", "the warehouse"])
def test_a_lake_that_went_back_to_an_older_state_is_found_out(made: MadeLake, witness: str) -> None:
    """By the newest seal that this host has seen, or that the warehouse has a copy of."""
    older = made.copy("older")
    made.now += timedelta(hours=2)
    made.add(1, "late")
    made.seal()
    note = made.seals[-1].read_text().partition("\n\n")[2]
    shutil.rmtree(made.dataset)
    shutil.copytree(older.dataset, made.dataset)
    made.asks_warehouse = witness == "the warehouse"
    if made.asks_warehouse:
        (made.folder / "newest").unlink()
    assert "cut off" in made.verdicts(notes=[note]).values()

    made.add(1, "late")
    made.seal()

    assert made.verdicts() == {"seal 2": "restored"}
    assert made.verdicts(notes=[note])["seal 2"] == "fork"
    made.now += timedelta(hours=2)
    made.seal()
    assert made.verdicts() == {"seal 2": "restored"}


def _entry(entry: Entry, _: Seal | None) -> tuple[list[Entry], bytes]:
    return [entry], b""


def test_sealers_that_race_take_numbers_of_their_own(made: MadeLake) -> None:
    """Of two that want one number, one gets it, and the other the next: no hole, no fork."""
    first = len(made.seals)

    def append(name: str) -> None:
        chain = made.chain()
        for number in range(10):
            entry = {"test": f"{name} {number}"}
            chain.append(partial(_entry, entry))

    threads = [threading.Thread(target=append, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [int(path.stem) for path in made.seals] == list(range(first + 30))
    assert made.verdicts() == {}


def test_two_loops_of_the_same_accounts_seal_an_hour_once(made: MadeLake) -> None:
    """The slower one leaves out what the faster one has said while it looked."""
    made.now += timedelta(hours=1)
    made.add(1, "late")
    count = len(made.seals)

    slower = made.seal(meanwhile=made.seal)

    assert slower is None
    assert len(made.seals) == count + 1
    assert made.verdicts() == {}


def test_a_copy_without_its_times_is_verified_quickly(made: MadeLake) -> None:
    """What a listing shows is another file then: its bytes are compared instead."""
    for number in range(5):
        os.utime(made.path(number))

    assert made.verdicts(is_quick=True) == {}
    made.put(2, made.held(2)[:1])
    assert made.verdicts(is_quick=True) == {"hour 2": "missing"}


def test_a_day_copy_is_proved_by_the_seals_of_its_hours(made: MadeLake) -> None:
    """Equal; forged, though its footer names the right hours; older than a late event."""
    day = BEGIN.date()
    write_copy(made.objects, ACCOUNT, day)
    assert (made.verdicts(), made.verify().copies) == ({}, {"intact": 1})

    honest = {number: (made.path(number).read_bytes(), made.path(number).stat()) for number in range(3)}
    made.put(1, [{**one, "raw_event": "[]"} for one in made.held(1)])
    write_copy(made.objects, ACCOUNT, day)
    for number, (body, stat) in honest.items():
        made.path(number).write_bytes(body)
        os.utime(made.path(number), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert made.verdicts() == {"day copy": "altered"}

    write_copy(made.objects, ACCOUNT, day)
    made.now += timedelta(minutes=1)
    made.add(1, "late")
    assert made.verdicts() == {"hour 1": "extended"}


def test_many_hours_that_changed_are_sealed_some_at_a_time(made: MadeLake) -> None:
    """A look at a long history is no task without an end: what is left comes in the next seal."""
    for hour in range(-5, 0):
        made.add(hour, "older")
    for hour in range(5):
        made.add(hour, "late")
    made.now += timedelta(minutes=1)

    def look() -> tuple[bool, int]:
        chain = made.chain()
        with made.sealing(chain) as sealing:
            is_all = sealing.add_changed(ACCOUNT, made.now - HOUR, most=2)
        seal = append_entries(chain, sealing.entries, chain.head())
        if seal is not None:
            complete_rows(made.rows, chain, seal)
        return is_all, len(seal.entries) if seal else 0

    assert [look() for _ in range(4)] == [(False, 4), (False, 4), (True, 2), (True, 0)]
    assert made.verdicts() == {}


def test_comparisons_are_sealed_once(made: MadeLake) -> None:
    """With status, counts and the digest of the API's ids; those that may not be written yet come later."""
    for hour, checked in ((1, made.now - timedelta(hours=3)), (2, made.now - timedelta(hours=2)), (3, made.now)):
        made.compare(hour, checked)

    def look() -> list[Entry]:
        chain = made.chain()
        with made.sealing(chain) as sealing:
            sealing.add_compared(ACCOUNT, made.now)
        seal = append_entries(chain, sealing.entries, chain.head())
        if seal is not None:
            complete_rows(made.rows, chain, seal)
        return list(seal.entries) if seal else []

    (entry,) = look()
    assert [line[1:] for line in entry["compared"]] == [["complete", 2, 2, 2, "77"]] * 2
    assert (entry["account"], entry["version"]) == (ACCOUNT, "v1")
    assert look() == []
    made.now += timedelta(hours=2)
    (later,) = look()
    assert len(later["compared"]) == 1
    assert made.verdicts() == {}
