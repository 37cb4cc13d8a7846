"""Bundles make a verification cheap; they cannot hide what was done to a seal."""

from pathlib import Path

import pytest

from pipelines.lake.ask.places import FolderPlace, Part
from pipelines.lake.partitions import HOUR
from pipelines.seals import bundles

from .made_lake import MadeLake

pytestmark = pytest.mark.integration

SEALS = 4


@pytest.fixture
def bundled(made: MadeLake, monkeypatch: pytest.MonkeyPatch) -> MadeLake:
    """A lake of ten seals, of which the first eight are in two bundles."""
    monkeypatch.setattr(bundles, "SEALS", SEALS)
    for _ in range(8):
        made.now += HOUR
        made.seal()
    return made


def read_by(made: MadeLake, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that a quick look reads."""
    read: list[str] = []
    of_place = FolderPlace.read

    def note(place: FolderPlace, path: str, begin: int = 0, end: int | None = None) -> Part:
        read.append(Path(path).name)
        return of_place(place, path, begin, end)

    monkeypatch.setattr(FolderPlace, "read", note)
    assert made.verdicts(is_quick=True) == {}
    return sorted(read)


def test_a_quick_look_reads_bundles_in_place_of_their_seals(bundled: MadeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bundles and the two seals after them."""
    assert len(bundled.seals) == 10

    assert read_by(bundled, monkeypatch) == [
        "0000000000.bundle",
        "0000000004.bundle",
        "0000000008.seal",
        "0000000009.seal",
    ]


def test_a_seal_that_is_gone_is_named_though_a_bundle_has_it(bundled: MadeLake) -> None:
    """Its number is not in the listing: that is what counts."""
    bundled.seals[2].unlink()

    assert bundled.verdicts(is_quick=True)["seal 2"] == "missing"


def test_a_seal_of_another_size_is_read_itself(bundled: MadeLake) -> None:
    """Of the same size, in a folder, a whole verification alone finds it."""
    whole = bundled.seals[2].read_bytes()
    bundled.seals[2].write_bytes(whole + b"x")
    assert bundled.verdicts(is_quick=True)["seal 2"] == "broken chain"

    bundled.seals[2].write_bytes(whole.replace(b'"events":0', b'"events":1', 1))

    assert bundled.verdicts(is_quick=True) == {}
    assert bundled.verdicts()["seal 2"] == "broken chain"


@pytest.mark.parametrize("how", ["forged", "garbage", "gone"])
def test_a_changed_bundle_is_not_used(bundled: MadeLake, how: str) -> None:
    """It proves nothing: where its seals do not fit, the seals themselves are read."""
    (first, _) = sorted((bundled.dataset / "_seals" / "bundles").iterdir())
    body = first.read_bytes()
    if how == "gone":
        first.unlink()
    else:
        first.write_bytes(b"x" if how == "garbage" else body.replace(b'"events":2', b'"events":3', 1))

    assert bundled.verdicts(is_quick=True) == {}
    assert bundled.verdicts() == {}


def test_a_bundle_that_is_missing_is_added_later(bundled: MadeLake) -> None:
    """One at a time, so that no turn reads many seals; nothing of it is ever sealed."""
    first, second = sorted((bundled.dataset / "_seals" / "bundles").iterdir())
    bodies = first.read_bytes(), second.read_bytes()
    first.unlink()
    second.unlink()

    for expected in ([first], [first, second]):
        bundled.now += HOUR
        bundled.seal()
        assert sorted((bundled.dataset / "_seals" / "bundles").iterdir())[: len(expected)] == expected
    assert (first.read_bytes(), second.read_bytes()) == bodies
    assert bundled.verdicts() == {}
