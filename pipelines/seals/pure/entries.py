"""The lines of a seal: of an hour, of an amendment, of comparisons, of a rotation. Pure.

The first line of an hour has its count and root. Later ones name the leaves that were added and removed since; those of
an hour that was empty until then, or that is stated anew after an amendment, have no list: all leaves are new.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from .event_set import PREFIX_BYTES, prefixes_of, set_root
from .seal_format import Entry, Seal, as_text, time_of

Hour = tuple[str, datetime]
"""An account and an hour."""
ANY = "any"
"""Amends whatever is missing: the object could not be read."""


class ObjectSeen(NamedTuple):
    """An hour's object when it was sealed."""

    bytes: int
    sha256: str
    version: str
    """As the listing of its store has it: a hint only."""


@dataclass(frozen=True)
class HourSeal:
    """A seal's line on an hour."""

    account_id: str
    hour: datetime
    seal: int
    """1 for the hour's first seal, and so on."""
    events: int
    root: bytes
    object: ObjectSeen | None
    why: str
    read_to: Mapping[str, str] = field(default_factory=dict)
    """By version, the begin of the poll that had read the hour."""
    added: tuple[bytes, ...] | None = None
    """None: all leaves are new, and their first bytes stand in the object beside the seal."""
    removed: tuple[bytes, ...] = ()

    @property
    def carries_leaves(self) -> bool:
        """True if the object beside the seal has the first bytes of this hour's leaves."""
        return self.added is None and self.events > 0

    def as_entry(self) -> Entry:
        """Returns the line."""
        found = self.object
        entry: Entry = {
            "account": self.account_id,
            "hour": as_text(self.hour),
            "seal": self.seal,
            "events": self.events,
            "root": self.root.hex(),
            "object": found and {"bytes": found.bytes, "sha256": found.sha256, "version": found.version},
            "read_to": dict(self.read_to),
            "why": self.why,
        }
        if self.added is not None:
            entry["added"] = [leaf.hex() for leaf in self.added]
        if self.removed:
            entry["removed"] = [leaf.hex() for leaf in self.removed]
        return entry

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "HourSeal":
        """Reads the line."""
        found = entry["object"]
        return cls(
            entry["account"],
            time_of(entry["hour"]),
            entry["seal"],
            entry["events"],
            bytes.fromhex(entry["root"]),
            found and ObjectSeen(found["bytes"], found["sha256"], found["version"]),
            entry["why"],
            entry["read_to"],
            tuple(map(bytes.fromhex, entry["added"])) if "added" in entry else None,
            tuple(map(bytes.fromhex, entry.get("removed", ()))),
        )


class Amendment(NamedTuple):
    """A signed permission: these leaves may go from an hour, and these may come although they were seen long ago."""

    account_id: str
    hour: datetime
    removes: tuple[bytes, ...] | None
    """None: any."""
    adds: tuple[bytes, ...]
    why: str
    by: str

    def as_entry(self) -> Entry:
        """Returns the line."""
        removes: str | list[str] = ANY if self.removes is None else [leaf.hex() for leaf in self.removes]
        return {
            "account": self.account_id,
            "hour": as_text(self.hour),
            "amends": {"removes": removes, "adds": [leaf.hex() for leaf in self.adds]},
            "why": self.why,
            "by": self.by,
        }

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "Amendment":
        """Reads the line."""
        removes, adds = entry["amends"]["removes"], entry["amends"]["adds"]
        named = None if removes == ANY else tuple(map(bytes.fromhex, removes))
        return cls(
            entry["account"],
            time_of(entry["hour"]),
            named,
            tuple(map(bytes.fromhex, adds)),
            entry["why"],
            entry["by"],
        )


class Placed(NamedTuple):
    """A seal's line on an hour, and in which seal it stands."""

    number: int
    sealed_at: datetime
    said: HourSeal
    leaves_at: int
    """Its first leaf in the object beside the seal."""


@dataclass
class HourHistory:
    """All that the seals say of an hour, in order."""

    seals: list[Placed] = field(default_factory=list)
    amendments: list[tuple[int, Amendment]] = field(default_factory=list)

    @property
    def last(self) -> Placed | None:
        """The newest."""
        return self.seals[-1] if self.seals else None

    @property
    def base(self) -> Placed:
        """The newest that states all leaves anew."""
        return next(one for one in reversed(self.seals) if one.said.added is None or one.said.seal == 1)

    @property
    def is_in_order(self) -> bool:
        """True if the hour's seals are numbered one after the other: none was sealed as if it were the first."""
        return all(one.said.seal == number for number, one in enumerate(self.seals, self.seals[0].said.seal))

    @property
    def open_amendments(self) -> list[Amendment]:
        """Those after the newest seal."""
        after = self.last.number if self.last else -1
        return [amendment for number, amendment in self.amendments if number > after]

    def prefixes(self, of_base: Iterable[bytes]) -> list[bytes]:
        """Returns the first bytes of the leaves of the newest seal, from those of the base."""
        found = Counter(of_base)
        for one in self.seals[self.seals.index(self.base) + 1 :]:
            found.update(prefixes_of(one.said.added or ()))
            found.subtract(prefixes_of(one.said.removed))
        return sorted(found.elements())

    def contradiction(self, leaves: Sequence[bytes]) -> str:
        """Says why the seals of the hour do not follow on each other; nothing if they do.

        The leaves are all that the newest one sealed.
        """
        if not self.is_in_order:
            return f"it was sealed as number {', '.join(str(one.said.seal) for one in self.seals)}"
        held = Counter(leaves)
        for newer, older in zip(reversed(self.seals), reversed(self.seals[:-1]), strict=False):
            if newer.said.added is None:
                return (
                    "" if older.said.events == 0 or self._is_amended(newer) else "it was sealed anew, without a reason"
                )
            if newer.said.removed and not self._is_amended(newer):
                return "events were taken out without a reason"
            held.subtract(newer.said.added)
            held.update(newer.said.removed)
            if min(held.values(), default=0) < 0 or set_root(held.elements()) != older.said.root:
                return f"its seal {newer.said.seal} is not its seal {older.said.seal} with the changes that it names"
        return ""

    def _is_amended(self, placed: Placed) -> bool:
        """True if an amendment between this seal of the hour and the one before it has a reason for what is gone."""
        before = [one.number for one in self.seals if one.number < placed.number]
        between = [a for number, a in self.amendments if before[-1] <= number <= placed.number]
        named = {leaf for amendment in between for leaf in amendment.removes or ()}
        is_any = any(amendment.removes is None for amendment in between)
        return is_any or (placed.said.added is not None and set(placed.said.removed) <= named)


def hours_in(seal: Seal) -> Iterator[tuple[Hour, Placed | Amendment]]:
    """Yields what a seal says of hours, in order."""
    leaves_at = 0
    for entry in seal.entries:
        if "amends" in entry:
            amendment = Amendment.of_entry(entry)
            yield (amendment.account_id, amendment.hour), amendment
        elif "seal" in entry:
            said = HourSeal.of_entry(entry)
            yield (said.account_id, said.hour), Placed(seal.number, seal.header.sealed_at, said, leaves_at)
            leaves_at += said.events if said.carries_leaves else 0


def add_to(histories: dict[Hour, HourHistory], seal: Seal) -> None:
    """Adds what a seal says of hours to their histories."""
    for hour, said in hours_in(seal):
        history = histories.setdefault(hour, HourHistory())
        if isinstance(said, Amendment):
            history.amendments.append((seal.number, said))
        else:
            history.seals.append(said)


def slice_of(leaves: bytes, placed: Placed) -> list[bytes]:
    """Returns the first bytes of an hour's leaves, out of the object beside its seal."""
    begin, end = placed.leaves_at, placed.leaves_at + placed.said.events
    return [leaves[at * PREFIX_BYTES : (at + 1) * PREFIX_BYTES] for at in range(begin, end)]
