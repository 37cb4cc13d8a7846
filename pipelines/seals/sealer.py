"""Beside the loop: seals each hour that was read and is closed, all accounts in one file. A failure holds up nothing.

The seals themselves are the memory; an index of them on this host makes the next one cheap. That and the copy in the
warehouse show that the lake went back to an older state.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pipelines.fetch.api import Clock
from pipelines.host.aside import words_of
from pipelines.host.logs import log
from pipelines.lake.reads import LakeReader, read_lake
from pipelines.load.store import client_of
from pipelines.loop.report import Report
from pipelines.settings.settings import Settings
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.seals import SealRows, seal_rows
from sources.cloudflare_audit_logs.streams import Stream

from .bundles import add_bundle
from .chain import Chain, Memory
from .copied_rows import complete_rows, path_beyond
from .index import SealIndex, seal_index
from .pure.entries import Hour
from .pure.seal_format import Entry, Seal, as_text
from .pure.verdicts import Comparison
from .sealing import Entries, ReadTo, Sealing, has_its_turn

PAUSE_SECONDS = 600
"""Between two looks whether an hour has become due, and after a failure."""
SHARE_OF_INTERVAL = 0.25
LONGEST_SECONDS = 60
DEADLINE_SECONDS = 900
MOST_ENTRIES = 5_000
"""In one seal: 2 MB. The others follow in the next."""
_HOUR = 3_600


@dataclass
class Sealed:
    """The result of a turn."""

    seals: list[Seal] = field(default_factory=list)
    alarms: dict[Hour, Comparison] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)
    """Accounts whose objects were listed."""
    is_all: bool = True
    """False if there was no time for more."""


class Sealer:
    """Seals what is due, as a task of the loop's background: it neither holds up nor ends the loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        report: Report,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """How far the streams were read, the report says; the newest seal and what is altered go into it."""
        self._settings, self._clock, self._report, self._monotonic = settings, clock, report, monotonic
        self._next = 0.0
        self._looked = 0
        """The last hour, since 1970, whose accounts were listed whole; zero: before the first turn."""
        self._chain: Chain | None = None
        self._completed = 0
        """Up to this number, the warehouse has the rows."""
        self._alarms: dict[Hour, Comparison] = {}
        self.deadline_seconds = DEADLINE_SECONDS

    @property
    def is_due(self) -> bool:
        """True if there may be something to seal: there is a key, and some time has passed."""
        return self._settings.seals.key_file is not None and self._monotonic() >= self._next

    def note(self, ended: "Future[Sealed]") -> None:
        """Reports what was sealed and what is altered, or logs why it failed."""
        if error := ended.exception():
            self._next = self._monotonic() + PAUSE_SECONDS
            self._chain = None
            log.warning("seal.failed", error=words_of(error), hint="it is tried again later")
            return
        done = ended.result()
        for seal in done.seals:
            log.info("seal.made", number=seal.number, entries=len(seal.entries))
            self._report.last_seal = seal.header.sealed_at
        self._alarms = {hour: found for hour, found in self._alarms.items() if hour[0] not in done.looked_at}
        self._alarms |= done.alarms
        self._report.seal_alarms["sealer"] = len(self._alarms)

    def work(self, begins: Mapping[Stream, datetime], stop: threading.Event) -> Sealed:
        """Seals, for a while, what was read and is closed. `begins` are the streams that both stores hold."""
        self._next = self._monotonic() + PAUSE_SECONDS
        patience = min(SHARE_OF_INTERVAL * self._settings.poll_interval_seconds, LONGEST_SECONDS)
        give_up_at = self._monotonic() + patience
        done = Sealed()
        with self._opened() as (lake, rows, index):
            chain = self._chain = self._chain or self._open_chain(lake)
            with lake.translated_errors():
                self._settle(chain, rows, index)
                sealing = Sealing(lake.objects, chain, index, rows)
                now, base = self._clock(), chain.head()
                self._looked = self._looked or int(now.timestamp()) // _HOUR - 1
                for account_id in self._settings.account_ids:
                    done.is_all &= self._add(sealing, account_id, begins, now, done)
                    if sealing.entries.count >= MOST_ENTRIES or stop.is_set() or self._monotonic() > give_up_at:
                        done.is_all &= account_id == self._settings.account_ids[-1]
                        break
                done.alarms = sealing.entries.alarms
                if (seal := append_entries(chain, sealing.entries, base)) is not None:
                    done.seals.append(seal)
                    self._settle(chain, rows, index)
                    add_bundle(lake.objects, chain, index, seal)
        if not done.is_all:
            self._next = 0.0
        else:
            self._looked = int(now.timestamp()) // _HOUR
        return done

    def _add(
        self, sealing: Sealing, account_id: str, begins: Mapping[Stream, datetime], now: datetime, done: Sealed
    ) -> bool:
        """Adds what is due of an account; False if there is more."""
        read_to = read_to_of(account_id, self._settings, self._report, begins, now)
        if read_to is None:
            return True
        is_all = sealing.add_closed(account_id, read_to)
        hours = range(self._looked + 1, int(now.timestamp()) // _HOUR + 1)
        if is_all and has_its_turn(account_id, hours[-24:]):
            is_all = sealing.add_changed(account_id, read_to.closed)
            sealing.add_compared(account_id, now)
            done.looked_at.add(account_id)
        return is_all

    @contextmanager
    def _opened(self) -> Iterator[tuple[LakeReader, SealRows, SealIndex]]:
        store = Warehouse.of(self._settings.stores, clock=self._clock)
        file = self._settings.stores.data_dir / "seals" / "index"
        with seal_rows(store, client_of(store)) as rows, read_lake() as lake, seal_index(file) as index:
            yield lake, rows, index

    def _open_chain(self, lake: LakeReader) -> Chain:
        file = self._settings.seals.key_file
        assert file is not None, "it is due with a key alone"  # noqa: S101
        return Chain(lake.objects, file, self._clock, Memory(self._settings.stores.data_dir / "seals" / "newest"))

    def _settle(self, chain: Chain, rows: SealRows, index: SealIndex) -> None:
        """Finds the newest seal, and adds what index and warehouse lack of it and those before."""
        head = chain.head()
        if head is None:
            rows.follow([])
            return
        trusted = chain.key(head).trusted  # a seal that our key has not signed is not copied
        if path := path_beyond(rows, head, trusted):
            chain.note_restored(f"{path}, which the warehouse has a copy of, is gone or another one")
        index.follow(chain, head)
        complete_rows(rows, chain, head, self._completed)
        self._completed = head.number + 1


def read_to_of(
    account_id: str, settings: Settings, report: Report, begins: Mapping[Stream, datetime], now: datetime
) -> ReadTo | None:
    """Returns how far an account was read by all its versions that the API does not refuse; None if not by all."""
    refused = report.failures.accounts.refused_versions
    streams = [stream for stream in settings.account(account_id).streams if stream not in refused]
    closed = now - timedelta(minutes=settings.seals.after_minutes)
    by_version = {}
    for stream in streams:
        succeeded = report.flow("lake", stream).succeeded
        if stream not in begins or succeeded is None:
            return None
        closed = min(closed, succeeded - settings.safety_lag(stream))
        by_version[stream.api_version] = as_text(succeeded)
    if not streams:
        return None
    return ReadTo(max(begins[stream] for stream in streams), closed, by_version)


def append_entries(chain: Chain, entries: Entries, base: Seal | None) -> Seal | None:
    """Appends a seal of entries that were made behind `base`; what newer ones have spoken of is left out."""

    def prepare(head: Seal | None) -> tuple[list[Entry], bytes]:
        newer: list[Seal] = []
        path, number = (base.next_path, base.number) if base else ("", -1)
        while head is not None and path and head.number > number and (seal := chain.read(path)) is not None:
            newer.append(seal)
            path, number = seal.next_path, seal.number
        return entries.without(newer if base or head is None else [head])

    return chain.append(prepare)
