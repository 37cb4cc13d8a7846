"""The signed seals' lines by hour, in a file of this host: what the sealer asks before it seals.

It is made from the seals alone, each of which must be the one that the next one names, up to the newest, which our key
has signed. Neither the lake nor the warehouse can put something else into it; lost, it is read from the seals again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pipelines.host.logs import log

from .chain import Chain
from .pure.entries import Amendment, hours_in
from .pure.seal_format import Seal, as_text, time_of

_TABLES = """
CREATE TABLE IF NOT EXISTS seals (number INTEGER PRIMARY KEY, path TEXT, digest TEXT, sealed_at TEXT, follows INTEGER);
CREATE TABLE IF NOT EXISTS lines (
    account TEXT, hour TEXT, number INTEGER, line INTEGER, kind TEXT, bytes INTEGER, version TEXT,
    PRIMARY KEY (account, hour, number, line)) WITHOUT ROWID;
"""
_WAIT_SECONDS = 60
_COMMIT_EVERY = 500


class Indexed(NamedTuple):
    """A seal, as the index knows it."""

    number: int
    path: str
    digest: str


class SealIndex:
    """Used by one thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.executescript(_TABLES)

    @property
    def frozen_before(self) -> datetime | None:
        """Hours that ended until then are not sealed: seals are missing, which may have spoken of them."""
        ((found,),) = self._database.execute("SELECT max(sealed_at) FROM seals WHERE NOT follows")
        return time_of(found) if found else None

    def follow(self, chain: Chain, head: Seal) -> None:
        """Takes in all seals up to the newest, which the caller knows to be signed."""
        last = self._last()
        if last and last.digest == head.digest:
            return
        with self._database:
            newer = [(chain.path, head)] if last and head.header.previous == last.digest else None
            for path, seal in newer or self._newer(chain, head, last):
                self._add(path, seal)
        if since := self.frozen_before:
            hint = "seals are missing: pipelines/verify.py names them"
            log.error("seal.frozen", hours_before=as_text(since), hint=hint)

    def last_hour(self, account_id: str) -> datetime | None:
        """The newest hour of an account that was sealed."""
        sql = "SELECT max(hour) FROM lines WHERE account = ? AND kind = 'hour'"
        ((found,),) = self._database.execute(sql, (account_id,))
        return time_of(found) if found else None

    def objects(self, account_id: str) -> dict[datetime, tuple[int | None, str | None]]:
        """Size and version of the object of each sealed hour, as it was sealed last."""
        sql = "SELECT hour, bytes, version FROM lines WHERE account = ? AND kind = 'hour' ORDER BY hour, number, line"
        return {time_of(hour): (size, version) for hour, size, version in self._database.execute(sql, (account_id,))}

    def seals_of(self, account_id: str, hours: Iterable[datetime]) -> dict[Indexed, list[datetime]]:
        """The seals that say something of these hours, in order, each with those hours."""
        found: dict[Indexed, list[datetime]] = {}
        sql = "SELECT DISTINCT number, path, digest FROM lines JOIN seals USING (number) WHERE account = ? AND hour = ?"
        for hour in hours:
            for row in self._database.execute(sql, (account_id, as_text(hour))):
                found.setdefault(Indexed(*row), []).append(hour)
        return dict(sorted(found.items()))

    def seal(self, number: int) -> Indexed | None:
        """The seal of a number."""
        rows = self._database.execute("SELECT number, path, digest FROM seals WHERE number = ?", (number,))
        return next((Indexed(*row) for row in rows), None)

    def _last(self) -> Indexed | None:
        ((number,),) = self._database.execute("SELECT max(number) FROM seals")
        return None if number is None else self.seal(number)

    def _newer(self, chain: Chain, head: Seal, last: Indexed | None) -> Iterator[tuple[str, Seal]]:
        """The seals after the last one; all, if the lake does not have that, or if one was missing before."""
        seal = chain.read_good(last.path) if last and last.number < head.number and not self.frozen_before else None
        if last is None or seal is None or seal.digest != last.digest:
            self._database.execute("DELETE FROM seals")
            self._database.execute("DELETE FROM lines")
            yield from chain.all()
            return
        while seal.number < head.number and (following := chain.read_good(seal.next_path)):
            yield seal.next_path, following
            seal = following
        if seal.number < head.number:
            yield from (found for found in chain.all() if found[1].number > seal.number)

    def _add(self, path: str, seal: Seal) -> None:
        before = self.seal(seal.number - 1)
        follows = seal.number == 0 or (before is not None and before.digest == seal.header.previous)
        if not follows and self.seal(seal.number):
            return  # a fork: the one that follows is there
        row = (seal.number, path, seal.digest, as_text(seal.header.sealed_at), follows)
        self._database.execute("REPLACE INTO seals VALUES (?, ?, ?, ?, ?)", row)
        self._database.execute("DELETE FROM lines WHERE number = ?", (seal.number,))
        self._database.executemany("INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?)", _lines_of(seal))
        if seal.number % _COMMIT_EVERY == 0:
            self._database.commit()


def _lines_of(seal: Seal) -> Iterator[Sequence[object]]:
    for line, ((account_id, hour), said) in enumerate(hours_in(seal)):
        about = (account_id, as_text(hour), seal.number, line)
        if isinstance(said, Amendment):
            yield (*about, "amendment", None, None)
        else:
            seen = said.said.object
            yield (*about, "hour", seen and seen.bytes, seen and seen.version)


@contextmanager
def seal_index(file: Path) -> Iterator[SealIndex]:
    """Opens the index of a file; one that cannot be read is made anew."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        database = _open(file)
    except sqlite3.DatabaseError:
        file.unlink()
        database = _open(file)
    try:
        yield SealIndex(database)
    finally:
        database.close()


def _open(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=_WAIT_SECONDS)
    database.execute("SELECT count(*) FROM sqlite_master")
    return database
