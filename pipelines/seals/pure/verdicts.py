"""The comparison of what an hour holds with what its seals say: each event that is gone, later, or of nobody. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from .entries import HourHistory
from .event_set import PREFIX_BYTES, set_root

SLACK = timedelta(hours=1)
"""An event is younger than a seal if it was first seen so long before it, or later: it was read, and not loaded yet."""


class Verdict(StrEnum):
    """The verdict on an hour. The first five are no alarm; an hour that is unsealed for long is one."""

    INTACT = "intact"
    REWRITTEN = "rewritten"
    EXTENDED = "extended"
    AMENDED = "amended"
    UNSEALED = "unsealed"
    ALTERED = "altered"
    MISSING = "missing"
    DELETED = "deleted"
    FOREIGN = "foreign"
    BROKEN = "broken"


ALARMS = frozenset({Verdict.ALTERED, Verdict.MISSING, Verdict.DELETED, Verdict.FOREIGN, Verdict.BROKEN})


@dataclass(frozen=True)
class Held:
    """The present contents of an hour's object."""

    leaves: Sequence[bytes] = ()
    first_seen: Callable[[], Sequence[datetime]] = list
    """When each event was first seen; asked for only where an hour has changed."""
    sha256: str | None = None
    """Of the object; None: there is none."""
    stray: int = 0
    """Rows that belong into another object."""
    doubled: int = 0
    """Rows beyond one of each key."""
    broken: str = ""
    """Why it cannot be read."""

    @property
    def unfit(self) -> str:
        """Why an hour is not sealed: the next load or repair would take some of its rows out."""
        counts = {"rows of another hour or account": self.stray, "events that are there twice": self.doubled}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


@dataclass(frozen=True)
class Comparison:
    """The verdict on an hour, and what has changed since its newest seal."""

    verdict: Verdict
    added: Sequence[bytes] = ()
    removed: Sequence[bytes] = ()
    """Leaves that an amendment names."""
    missing: int = 0
    """Sealed events that are not there, and that no amendment names."""
    foreign: int = 0
    """Events that no seal knows, although they were first seen long before the newest one."""
    is_anew: bool = False
    """True if what is gone cannot be named, and an amendment permits that."""
    text: str = ""


@dataclass
class _Matched:
    """The rows by what the seals know of them."""

    sealed: list[bytes] = field(default_factory=list)
    extra: list[tuple[bytes, datetime]] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    """The first bytes of sealed leaves that are not there."""


def compare(history: HourHistory, prefixes: Sequence[bytes] | None, held: Held) -> Comparison:
    """Compares an hour with its seals; `prefixes` are of the newest seal's leaves, None if they are lost."""
    last = history.last
    if last is None:
        return Comparison(Verdict.UNSEALED, list(held.leaves))
    if held.sha256 is None and last.said.events:
        return (
            Comparison(Verdict.DELETED, missing=last.said.events)
            if not _may_go(history, prefixes)
            else _gone(history, prefixes, held)
        )
    if held.broken:
        return Comparison(Verdict.ALTERED, missing=last.said.events, text=held.broken)
    if held.stray:
        return Comparison(Verdict.FOREIGN, foreign=held.stray, text="rows of another hour or account")
    if len(held.leaves) == last.said.events and set_root(held.leaves) == last.said.root:
        return _unchanged(history, held)
    return _changed(history, prefixes, held)


def _may_go(history: HourHistory, prefixes: Sequence[bytes] | None) -> bool:
    return bool(history.open_amendments) and prefixes is not None


def _gone(history: HourHistory, prefixes: Sequence[bytes] | None, held: Held) -> Comparison:
    found = _changed(history, prefixes, held)
    return found if found.verdict is Verdict.AMENDED else Comparison(Verdict.DELETED, missing=found.missing)


def _unchanged(history: HourHistory, held: Held) -> Comparison:
    if text := history.contradiction(held.leaves):
        return Comparison(Verdict.BROKEN, text=text)
    last = history.last
    seen = last.said.object if last else None
    return Comparison(Verdict.INTACT if (seen and seen.sha256) == held.sha256 else Verdict.REWRITTEN)


def _changed(history: HourHistory, prefixes: Sequence[bytes] | None, held: Held) -> Comparison:
    last = history.seals[-1]
    rows = _by_prefix(prefixes, held) if prefixes is not None else _by_time(last.said.events, held)
    amendments = history.open_amendments
    named = {leaf[:PREFIX_BYTES]: leaf for amendment in amendments for leaf in amendment.removes or ()}
    removed = [named[prefix] for prefix in rows.gone if prefix in named]
    missing = len(rows.gone) - len(removed)
    is_anew = missing > 0 and any(amendment.removes is None for amendment in amendments)
    added = [leaf for leaf, _ in rows.extra]
    if not missing:
        proved = [*rows.sealed, *removed]
        if set_root(proved) != last.said.root:
            return Comparison(Verdict.ALTERED, missing=max(1, last.said.events - len(held.leaves)))
        if text := history.contradiction(proved):
            return Comparison(Verdict.BROKEN, text=text)
    permitted = {leaf for amendment in amendments for leaf in amendment.adds}
    since = last.sealed_at - SLACK
    foreign = 0 if is_anew else sum(seen < since and leaf not in permitted for leaf, seen in rows.extra)
    if missing and not is_anew:
        return Comparison(Verdict.ALTERED if added else Verdict.MISSING, missing=missing, foreign=foreign)
    if foreign:
        return Comparison(Verdict.FOREIGN, foreign=foreign)
    verdict = Verdict.AMENDED if removed or is_anew or permitted & set(added) else Verdict.EXTENDED
    return Comparison(verdict, added, removed, is_anew=is_anew)


def _by_prefix(prefixes: Sequence[bytes], held: Held) -> _Matched:
    rows, wanted = _Matched(), Counter(prefixes)
    for leaf, seen in zip(held.leaves, held.first_seen(), strict=True):
        if wanted[leaf[:PREFIX_BYTES]] > 0:
            wanted[leaf[:PREFIX_BYTES]] -= 1
            rows.sealed.append(leaf)
        else:
            rows.extra.append((leaf, seen))
    rows.gone = list((+wanted).elements())
    return rows


def _by_time(events: int, held: Held) -> _Matched:
    """Without the leaves' first bytes: the sealed ones are those that were seen first, which the root proves."""
    in_order = sorted(zip(held.leaves, held.first_seen(), strict=True), key=lambda row: row[1])
    rows = _Matched([leaf for leaf, _ in in_order[:events]], in_order[events:])
    rows.gone = [b""] * max(0, events - len(in_order))
    return rows
