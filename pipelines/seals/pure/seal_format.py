"""The file of a seal: header and entries, a JSON object a line, an empty line, the checkpoint that signs them. Pure.

The checkpoint is that of the log whose records are the bodies of all seals, this one included; a body is what stands
before the empty line. So each signature covers all seals until then.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Any

from .merkle import Tree, leaf_hash
from .notes import Checkpoint, NoteError, SignerKey, VerifierKey

FORMAT = "cloudflare-audit-seal/1"
FOLDER = "_seals"
CHECKPOINT_PATH = f"{FOLDER}/checkpoint"
"""The newest checkpoint again: for people, never trusted."""

_NAME = re.compile(r"([0-9]{10})\.seal")

Entry = dict[str, Any]
"""A line of a seal. `entries.py` says what is in it."""


@dataclass(frozen=True)
class Incarnation:
    """A stretch of numbers of one history of the bucket: after a restore to an older state, another one begins."""

    id: str
    first: int
    why: str = ""


@dataclass(frozen=True)
class Header:
    """The first line of a seal."""

    origin: str
    number: int
    sealed_at: datetime
    previous: str
    """SHA-256 of the whole file of the seal before, in hex; nothing in the first."""
    incarnations: tuple[Incarnation, ...]
    frontier: tuple[bytes, ...]
    """Of the tree of all bodies before this one: what a log needs to go on."""
    software: str
    leaves: str = ""
    """SHA-256 of the object with the leaves' first bytes; nothing if this seal needs none."""

    def as_json(self) -> dict[str, Any]:
        """Returns the line's object."""
        return {
            "format": FORMAT,
            "origin": self.origin,
            "seq": self.number,
            "sealed_at": as_text(self.sealed_at),
            "previous": self.previous,
            "incarnations": [[one.id, one.first, one.why] for one in self.incarnations],
            "frontier": [node.hex() for node in self.frontier],
            "software": self.software,
            "leaves": self.leaves,
        }

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> "Header":
        """Reads the line's object; raises as `Seal.parse`."""
        if said["format"] != FORMAT:
            raise ValueError(f"its format is {said['format']!r:.60}")
        number, frontier = int(said["seq"]), tuple(map(bytes.fromhex, said["frontier"]))
        if number < 0 or [len(node) for node in frontier] != [32] * number.bit_count():
            raise ValueError("its frontier is not that of its number")
        return cls(
            str(said["origin"]),
            number,
            time_of(said["sealed_at"]),
            str(said["previous"]),
            tuple(Incarnation(str(one), int(first), str(why)) for one, first, why in said["incarnations"]),
            frontier,
            str(said["software"]),
            str(said["leaves"]),
        )


@dataclass(frozen=True)
class Seal:
    """A seal as it was read: its signature is verified by `is_signed_by` alone."""

    header: Header
    entries: tuple[Entry, ...]
    checkpoint: Checkpoint
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> "Seal":
        """Reads a file.

        Raises:
            NoteError: it is not a seal, or says something else in its header than in its checkpoint.
        """
        try:
            body, separator, note = raw.decode().partition("\n\n")
            first, *others = body.split("\n")
            header = Header.of_json(json.loads(first))
            entries = tuple(map(json.loads, others))
            if not separator or not all(isinstance(entry, dict) for entry in entries):
                raise ValueError("its lines are not JSON objects, or it has no checkpoint")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise NoteError("it is not a seal", detail=str(error)) from None
        seal = cls(header, entries, Checkpoint.parse(note), raw)
        if (seal.checkpoint.origin, seal.checkpoint.size) != (header.origin, header.number + 1):
            raise NoteError("its header and its checkpoint have different numbers or origins")
        if seal.tree.root != seal.checkpoint.root:
            raise NoteError("the root in its checkpoint is not that of its body")
        return seal

    @property
    def number(self) -> int:
        """Its number: the first is 0."""
        return self.header.number

    @cached_property
    def body(self) -> bytes:
        """The record of the log: what stands before the empty line."""
        return self.raw.partition(b"\n\n")[0] + b"\n"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex: the next seal names it."""
        return sha256(self.raw).hexdigest()

    @cached_property
    def tree(self) -> Tree:
        """The tree of all bodies up to this one."""
        return Tree(self.number, self.header.frontier).with_leaf(leaf_hash(self.body))

    @property
    def rotated_to(self) -> VerifierKey | None:
        """The key of the seals after this one, if it is another one."""
        keys = [entry["rotate_to"] for entry in self.entries if "rotate_to" in entry]
        return VerifierKey.parse(keys[-1]) if keys else None

    def is_signed_by(self, key: VerifierKey) -> bool:
        """True if the key has signed it."""
        return self.checkpoint.is_signed_by(key)

    @property
    def next_path(self) -> str:
        """The one place where the next seal can be, so that of two sealers one finds it taken."""
        return path_of(self.number + 1, self.header.sealed_at)


def sealed(header: Header, entries: Sequence[Entry], key: SignerKey) -> Seal:
    """Returns the seal of these entries, signed."""
    lines = [header.as_json(), *entries]
    body = "".join(f"{json.dumps(line, ensure_ascii=False, separators=(',', ':'))}\n" for line in lines)
    tree = Tree(header.number, header.frontier).with_leaf(leaf_hash(body.encode()))
    return Seal.parse(f"{body}\n{Checkpoint.of(tree, key)}".encode())


def path_of(number: int, day: datetime) -> str:
    """The path of a seal: in the folder of the day of the seal before it, which nobody can disagree about."""
    return f"{FOLDER}/{day.astimezone(UTC):%Y/%m/%d}/{number:010}.seal"


def leaves_path(seal_path: str, digest: str) -> str:
    """The path of the leaves of a seal: beside it, named by what is in it, so that it can be written before it."""
    return f"{seal_path.rpartition('/')[0]}/{digest}.leaves"


def number_of(path: str) -> int | None:
    """The number of the seal of a path; None: it is the path of none."""
    found = _NAME.fullmatch(path.rpartition("/")[2])
    return int(found[1]) if found else None


def as_text(time: datetime) -> str:
    """A time in UTC, with microseconds where it has any."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_of(text: str) -> datetime:
    """Reads a time that `as_text` has written."""
    return datetime.fromisoformat(text).astimezone(UTC)
