"""Says in a seal what a repair takes out of an hour or brings back, before it does: a kill loses no reason.

What is permitted and not done yet permits it until the hour is sealed again; both stand in seals, with the reason.
"""

from collections.abc import Sequence

import pyarrow as pa

from pipelines.fetch.api import Clock
from pipelines.lake.objects import Objects
from pipelines.lake.partitions import Partition, split
from pipelines.settings.settings import Settings

from .chain import Chain, Memory
from .hour_objects import read_hour
from .pure.entries import Amendment
from .pure.event_set import LEAF_SCHEMA, leaves_of
from .pure.verdicts import SLACK

BY = "reconcile.py --repair"


class Notary:
    """Appends seals with amendments. Used by one thread at a time."""

    def __init__(self, chain: Chain, objects: Objects, clock: Clock) -> None:
        self._chain, self._objects, self._clock = chain, objects, clock
        self._permitted: set[Amendment] = set()

    def permit_change(self, partition: Partition, held: pa.Table, changed: pa.Table, why: str) -> None:
        """Permits what is to become of an hour's rows: those that go, and those that come instead."""
        before, after = set(_leaves(held)), set(_leaves(changed))
        self._permit(partition, sorted(before - after), sorted(after - before), why)

    def permit_old(self, events: pa.Table, why: str) -> None:
        """Permits events that come back with the time when they were first seen, to the hours that lack them."""
        since = self._clock() - SLACK
        for partition, rows in split(events):
            seen = rows["ingestion_time"].to_pylist()
            old = [leaf for leaf, time in zip(_leaves(rows), seen, strict=True) if time < since]
            there = set(read_hour(self._objects, partition).held.leaves) if old else set()
            self._permit(partition, [], sorted(set(old) - there), why)

    def permit_any(self, partition: Partition, why: str) -> None:
        """Permits that whatever an hour held is gone: its object cannot be read."""
        self._append(Amendment(partition.account_id, partition.hour, None, (), why, BY))

    def _permit(self, partition: Partition, removes: Sequence[bytes], adds: Sequence[bytes], why: str) -> None:
        if removes or adds:
            self._append(Amendment(partition.account_id, partition.hour, tuple(removes), tuple(adds), why, BY))

    def _append(self, amendment: Amendment) -> None:
        if amendment not in self._permitted:
            self._chain.append(lambda _: ([amendment.as_entry()], b""))
            self._permitted.add(amendment)


def notary_of(settings: Settings, objects: Objects, clock: Clock) -> Notary | None:
    """Returns what amends seals; None if nothing is sealed, because there is no key or no seal yet."""
    if settings.seals.key_file is None:
        return None
    chain = Chain(objects, settings.seals.key_file, clock, Memory(settings.stores.data_dir / "seals" / "newest"))
    return Notary(chain, objects, clock) if chain.head() is not None else None


def _leaves(rows: pa.Table) -> list[bytes]:
    return leaves_of(rows.select(LEAF_SCHEMA.names))
