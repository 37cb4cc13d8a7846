"""Makes the entries of a seal: the hours that are closed, and those that changed since they were sealed.

Which older hours changed, nobody need tell: a listing of an account, once a day at an hour of its own, is compared with
the objects as they were sealed. So a seal costs what is new, and 1/24 of the lists. What is not in the object any more,
and was not amended, is never sealed over: the hour is left as it is, and reported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from pipelines.host.logs import log
from pipelines.lake.object_rows import NewerObjectError
from pipelines.lake.objects import Objects
from pipelines.lake.partitions import HOUR, Partition, account_folder, partition_of
from pipelines.warehouse.seals import SealRows

from .chain import Chain
from .hour_objects import HourObject, read_hour, whole_hours
from .index import SealIndex
from .pure.entries import Hour, HourHistory, HourSeal, add_to, hours_in, slice_of
from .pure.event_set import prefixes_of, set_root
from .pure.seal_format import Entry, Seal, as_text
from .pure.verdicts import ALARMS, Comparison, Verdict, compare

MOST_HOURS = 2_000
"""The hours of one account in one seal, at first: a seal of 1 MB."""
COMPARED_SINCE = timedelta(days=60)
"""The oldest hours whose comparisons are sealed: the loop compares none that are older."""
COMPARED_SETTLED = timedelta(hours=1)
"""A comparison is sealed so long after it began: by then its row is there."""


@dataclass(frozen=True)
class ReadTo:
    """How far an account was read: its hours before `closed` are, from `begin` on."""

    begin: datetime
    closed: datetime
    by_version: Mapping[str, str]
    """By version, the begin of the last poll that was read and loaded whole."""


@dataclass
class Entries:
    """The entries of a seal, until it is appended."""

    hours: list[tuple[HourSeal, Sequence[bytes]]] = field(default_factory=list)
    """With the leaves, where they are all new."""
    compared: list[Entry] = field(default_factory=list)
    alarms: dict[Hour, Comparison] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of lines."""
        return len(self.hours) + len(self.compared)

    def without(self, newer: Iterable[Seal]) -> tuple[list[Entry], bytes]:
        """Returns the lines and their leaves, but of hours that other seals have spoken of meanwhile."""
        spoken = {hour for seal in newer for hour, _ in hours_in(seal)}
        kept = [(said, leaves) for said, leaves in self.hours if (said.account_id, said.hour) not in spoken]
        prefixes = (b"".join(prefixes_of(leaves)) for said, leaves in kept if said.carries_leaves)
        return [said.as_entry() for said, _ in kept] + self.compared, b"".join(prefixes)


class Sealing:
    """Finds what is to be sealed of one account after the other. Used by one thread at a time."""

    def __init__(self, objects: Objects, chain: Chain, index: SealIndex, rows: SealRows) -> None:
        """What was sealed, the index says; which comparisons are new, the warehouse."""
        self._objects, self._chain, self._index, self._rows = objects, chain, index, rows
        self._frozen_before = index.frozen_before
        self.entries = Entries()

    def add_closed(self, account_id: str, read_to: ReadTo, most: int = MOST_HOURS) -> bool:
        """Adds the hours that were read and are closed, with or without events; False if some are left."""
        last = self._index.last_hour(account_id)
        hours = whole_hours(max(read_to.begin, last + HOUR if last else read_to.begin), read_to.closed, most)
        for hour in hours:
            self._add_first(Partition(account_id, hour), "closed", read_to.by_version)
        return len(hours) < most or not self.entries.hours

    def add_changed(self, account_id: str, before: datetime, most: int = MOST_HOURS) -> bool:
        """Adds the hours that changed since they were sealed, or were never sealed, by one listing of the account.

        Returns False if some are left.
        """
        listed = {}
        for path, found in self._objects.listing(account_folder(account_id)).items():
            if (partition := partition_of(path)) is not None:
                listed[partition.hour] = (found.size, found.version.strip('"'))
        sealed = self._index.objects(account_id)
        closed = {said.hour for said, _ in self.entries.hours if said.account_id == account_id}
        new = sorted(hour for hour in listed.keys() - sealed.keys() - closed if hour + HOUR <= before)
        for hour in new[:most]:
            self._add_first(Partition(account_id, hour), "found", {})
        changed = sorted(hour for hour, of in sealed.items() if _differs(listed.get(hour), of))
        for account_hour, history in self._histories(account_id, changed[:most]).items():
            self._add_again(Partition(*account_hour), history)
        # Hours that are left as they are, because they are altered, must not keep the others waiting for ever.
        return max(len(new), len(changed)) <= most or not self.entries.hours

    def add_compared(self, account_id: str, now: datetime) -> None:
        """Adds the comparisons of API, warehouse and lake that are in no seal yet."""
        rows = self._rows.new_checks(account_id, now - COMPARED_SINCE, now - COMPARED_SETTLED)
        by_version: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_version.setdefault(row["api_version"], []).append(row)
        self.entries.compared += [compared_entry(account_id, version, of) for version, of in by_version.items()]

    def _add_first(self, partition: Partition, why: str, read_to: Mapping[str, str]) -> None:
        found = None if self._is_frozen(partition) else self._read(partition)
        if found is None:
            return
        if text := found.held.broken or found.held.unfit:
            log.warning("seal.left_out", account=partition.account_id, hour=as_text(partition.hour), found=text)
            return
        leaves = found.held.leaves
        said = HourSeal(
            partition.account_id, partition.hour, 1, len(leaves), set_root(leaves), found.seen, why, dict(read_to)
        )
        self.entries.hours.append((said, leaves))

    def _add_again(self, partition: Partition, history: HourHistory) -> None:
        found, last = None if self._is_frozen(partition) else self._read(partition), history.last
        if found is None or last is None:
            return
        result = compare(history, self._prefixes(history), found.held)
        if result.verdict in ALARMS:
            self._refuse(partition, result)
            return
        if result.verdict is Verdict.INTACT and found.seen == last.said.object:
            return
        leaves = found.held.leaves
        is_all_new = result.is_anew or (not last.said.events and bool(leaves))
        said = HourSeal(
            partition.account_id,
            partition.hour,
            last.said.seal + 1,
            len(leaves),
            set_root(leaves),
            found.seen,
            _reason(history, result),
            added=None if is_all_new else tuple(sorted(result.added)),
            removed=() if is_all_new else tuple(sorted(result.removed)),
        )
        self.entries.hours.append((said, leaves))

    def _read(self, partition: Partition) -> HourObject | None:
        try:
            return read_hour(self._objects, partition)
        except NewerObjectError as error:
            log.warning("seal.left_out", account=partition.account_id, hour=as_text(partition.hour), error=error)
            return None

    def _refuse(self, partition: Partition, found: Comparison) -> None:
        """Reports an hour that is not sealed, because that would sign an alteration, or may."""
        self.entries.alarms[partition.account_id, partition.hour] = found
        about = {"account": partition.account_id, "hour": as_text(partition.hour), "verdict": found.verdict}
        hint = "it is not sealed again: see docs/runbook.md, and pipelines/verify.py"
        log.error("seal.altered", **about, missing=found.missing, foreign=found.foreign, text=found.text, hint=hint)

    def _is_frozen(self, partition: Partition) -> bool:
        is_frozen = self._frozen_before is not None and partition.hour + HOUR <= self._frozen_before
        if is_frozen:
            self._refuse(partition, Comparison(Verdict.BROKEN, text="a seal is missing that may speak of it"))
        return is_frozen

    def _histories(self, account_id: str, hours: Sequence[datetime]) -> dict[Hour, HourHistory]:
        """What the seals say of these hours; of none of which a seal is not any more what it was."""
        histories: dict[Hour, HourHistory] = {}
        lost: set[datetime] = set()
        for known, its_hours in self._index.seals_of(account_id, hours).items():
            seal = self._chain.read_good(known.path)
            if seal is None or seal.digest != known.digest:
                lost.update(its_hours)
            else:
                add_to(histories, seal)
        for hour in sorted(lost):
            self._refuse(
                Partition(account_id, hour), Comparison(Verdict.BROKEN, text="a seal of it is not what it was")
            )
        return {(account_id, hour): histories[account_id, hour] for hour in hours if hour not in lost}

    def _prefixes(self, history: HourHistory) -> list[bytes] | None:
        base = history.base
        if not base.said.carries_leaves:
            return history.prefixes([])
        known = self._index.seal(base.number)
        seal = self._chain.read_good(known.path) if known else None
        leaves = self._chain.read_leaves(known.path, seal) if known and seal else None
        return None if leaves is None else history.prefixes(slice_of(leaves, base))


def compared_entry(account_id: str, version: str, checks: Sequence[Mapping[str, Any]]) -> Entry:
    """Returns the line of comparisons: by hour its status, the events of each side, the digest of the API's."""
    names = ("status", "api_events", "warehouse_events", "lake_events", "api_digest")
    return {
        "account": account_id,
        "version": version,
        "checked_at": as_text(max(check["checked_at"] for check in checks)),
        "compared": [[as_text(check["hour"]), *(check[name] for name in names)] for check in checks],
    }


def has_its_turn(account_id: str, hours: Iterable[int]) -> bool:
    """True if one of these hours since 1970 is the account's, in which it is listed once a day."""
    turn = crc32(account_id.encode()) % 24
    return any(hour % 24 == turn for hour in hours)


def _differs(listed: tuple[int, str] | None, sealed: tuple[int | None, str | None]) -> bool:
    """True if an object may be another one than was sealed. Not every store lists versions."""
    if listed is None or sealed[0] is None:
        return listed is not None or sealed[0] is not None
    return listed[0] != sealed[0] or bool(listed[1] and listed[1] != sealed[1])


def _reason(history: HourHistory, result: Comparison) -> str:
    if result.removed or result.is_anew:
        return "; ".join(dict.fromkeys(amendment.why for amendment in history.open_amendments))
    if result.verdict is Verdict.REWRITTEN or not result.added:
        return "rewritten"
    permitted = {leaf for amendment in history.open_amendments for leaf in amendment.adds}
    return "repair" if permitted & set(result.added) else "late or backfill"
