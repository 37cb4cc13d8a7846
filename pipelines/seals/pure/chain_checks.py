"""Verifies all seals as a chain: numbers, hashes, tree, signatures, keys, incarnations, kept checkpoints. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .notes import Checkpoint, NoteError, VerifierKey
from .seal_format import Seal, number_of

MOST_NAMED = 10_000
"""Missing numbers before one that is there: a file with a large number in its name must not keep verifiers busy."""


class ChainFinding(NamedTuple):
    """A fault of the chain, or a fact to be known of it."""

    kind: str
    """missing, fork, broken chain, bad signature, unknown key, restored, cut off; told: rotated."""
    number: int
    text: str
    at: datetime | None = None
    """When the seal was made, of what is an alarm for a while only."""

    def is_alarm(self, since: datetime) -> bool:
        """False if it is only told: a key that another one follows, a restore before the time that is asked for."""
        return self.kind != "rotated" and (self.at is None or self.at >= since)


@dataclass
class ChainResult:
    """The seals that can be believed, and what is wrong."""

    seals: list[Seal] = field(default_factory=list)
    findings: list[ChainFinding] = field(default_factory=list)
    size: int = 0
    """One more than the highest number that was found."""

    def add(self, kind: str, number: int, text: str, at: datetime | None = None) -> None:
        """Adds a finding."""
        self.findings.append(ChainFinding(kind, number, text, at))


def check_chain(
    files: Mapping[str, bytes], keys: Sequence[VerifierKey], checkpoints: Iterable[str] = ()
) -> ChainResult:
    """Verifies the files by path, with the keys that are trusted; and that the log is that of older checkpoints."""
    result = ChainResult()
    by_number = _parsed(files, result)
    there = {number_of(path) for path in files}
    result.size = max((number for path in files if (number := number_of(path)) is not None), default=-1) + 1
    signed = _Signatures(keys, result)
    previous: Seal | None = None
    for number in _numbers({number for number in there if number is not None}):
        found = by_number.get(number, [])
        if number not in there:
            result.add("missing", number, f"seal {number} is missing")
        if len({seal.digest for _, seal in found}) > 1 or len(found) > 1:
            result.add("fork", number, f"there are {len(found)} seals of number {number}")
        followers = [(path, seal) for path, seal in found if not previous or seal.header.previous == previous.digest]
        seal = None
        if found:
            path, seal = (followers or found)[0]
            signed.check(seal, is_linked=_check_link(path, seal, previous, result))
        previous = seal
    signed.settle()
    _check_checkpoints(checkpoints, keys, result)
    return result


def _numbers(there: set[int]) -> list[int]:
    """The numbers that are there, and those that are missing before them; of a hole, at most the last MOST_NAMED."""
    holes = (range(max(0, number - MOST_NAMED), number) for number in there if number - 1 not in there)
    return sorted(there.union(*holes))


def _parsed(files: Mapping[str, bytes], result: ChainResult) -> dict[int, list[tuple[str, Seal]]]:
    by_number: dict[int, list[tuple[str, Seal]]] = {}
    for path, raw in sorted(files.items()):
        number = number_of(path)
        if number is None:
            continue
        try:
            seal = Seal.parse(raw)
            if seal.number != number:
                raise NoteError(f"it is seal {seal.number}")
        except Exception as error:  # noqa: BLE001  # whatever anybody's bytes make a parser raise
            result.add("broken chain", number, f"{path}: {error!r}" if str(error) == "" else f"{path}: {error}")
        else:
            by_number.setdefault(number, []).append((path, seal))
    return by_number


def _check_link(path: str, seal: Seal, previous: Seal | None, result: ChainResult) -> bool:
    """Checks that the seal follows on the one before it, if that is there; returns True if it does."""
    number, header = seal.number, seal.header
    if previous is None:
        return False
    begun = previous.header.incarnations
    problems = [
        (header.previous != previous.digest, "it names another seal before it"),
        (header.frontier != previous.tree.frontier, "its tree is not that of the seals before it"),
        (path != previous.next_path, f"it is at {path}, not at {previous.next_path}"),
        (header.incarnations[: len(begun)] != begun, "its history differs"),
    ]
    for is_wrong, text in problems:
        if is_wrong:
            result.add("broken chain", number, f"seal {number}: {text}")
    for one in header.incarnations[len(begun) :]:
        text = f"from seal {number} on, the lake has another history: {one.why}"
        result.add("restored", number, text, header.sealed_at)
    return not any(is_wrong for is_wrong, _ in problems)


class _Signatures:
    """Follows the keys from seal to seal: a key is trusted because it was given, or because a trusted one named it.

    A signature covers all seals before it, as far back as each follows on the one before; so only the last one of a
    stretch under one key need be verified. If it is not good, the one before it is, and so on.
    """

    def __init__(self, keys: Sequence[VerifierKey], result: ChainResult) -> None:
        self._given, self._result = keys, result
        self._current: VerifierKey | None = None
        self._retired: set[bytes] = set()
        """Public keys that were followed by another one: they sign nothing any more."""
        self._stretch: list[Seal] = []

    def check(self, seal: Seal, *, is_linked: bool) -> None:
        """Takes the next seal."""
        if not is_linked or _is_new_history(seal):
            self.settle()
        self._stretch.append(seal)
        if seal.rotated_to is not None:
            self.settle()

    def settle(self) -> None:
        """Ends a stretch."""
        stretch, self._stretch = self._stretch, []
        candidates = [self._current] if self._current else []
        if stretch and (not self._current or _is_new_history(stretch[0])):
            candidates += [key for key in self._given if key.public not in self._retired]
        believed = len(stretch)
        while believed and not (signers := [key for key in candidates if stretch[believed - 1].is_signed_by(key)]):
            believed -= 1
        self._result.seals += stretch[:believed]
        for seal in stretch[believed:]:
            self._refuse(seal)
        if believed:
            self._follow(stretch[believed - 1], signers[0])

    def _follow(self, seal: Seal, key: VerifierKey) -> None:
        self._current = key
        if (following := seal.rotated_to) is not None:
            self._retired.add(key.public)
            self._current = following
            self._result.add("rotated", seal.number, f"seals after {seal.number} are signed by {following}")

    def _refuse(self, seal: Seal) -> None:
        known = next((k for k in [self._current, *self._given] if k and k.id == seal.checkpoint.key_id), None)
        kind = "bad signature" if known else "unknown key"
        of = f"was not signed by {known}" if known else "is signed by a key that was not given"
        self._result.add(kind, seal.number, f"seal {seal.number} {of}")


def _is_new_history(seal: Seal) -> bool:
    return any(one.first == seal.number for one in seal.header.incarnations)


def _check_checkpoints(notes: Iterable[str], keys: Sequence[VerifierKey], result: ChainResult) -> None:
    """Checks that the log still is what each kept checkpoint says it was."""
    by_number = {seal.number: seal for seal in result.seals}
    trusted = [*keys, *(key for seal in result.seals if (key := seal.rotated_to))]
    for note in notes:
        kept = Checkpoint.parse(note)
        last = kept.size - 1
        if not any(kept.is_signed_by(key) for key in trusted):
            result.add("bad signature", last, "the checkpoint was not signed by a key that is trusted")
        elif kept.size > result.size:
            text = f"the checkpoint is of {kept.size} seals, and there are {result.size}: the newest were cut off"
            result.add("cut off", last, text)
        elif last in by_number and by_number[last].checkpoint.root != kept.root:
            result.add("fork", last, f"the log of {kept.size} seals is another one than the checkpoint's")
        elif last not in by_number:
            result.add("missing", last, f"seal {last}, which the checkpoint signs, cannot be believed")
