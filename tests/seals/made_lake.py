"""A lake that a test makes object by object and seals when it likes, with a clock of its own."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg2
import pyarrow as pa

from pipelines.lake.ask.places import FolderPlace
from pipelines.lake.object_format import encode
from pipelines.lake.objects import Folder, write_file
from pipelines.lake.partitions import HOUR, Partition
from pipelines.seals.bundles import add_bundle
from pipelines.seals.chain import Chain, Memory
from pipelines.seals.copied_rows import complete_rows, path_beyond
from pipelines.seals.hour_objects import leaf_rows
from pipelines.seals.index import seal_index
from pipelines.seals.keeping import initialise
from pipelines.seals.key_file import read_key
from pipelines.seals.pure.entries import Amendment
from pipelines.seals.pure.event_set import leaves_of
from pipelines.seals.pure.seal_format import Seal
from pipelines.seals.sealer import append_entries
from pipelines.seals.sealing import ReadTo, Sealing
from pipelines.seals.verification import Scope, Verification, Verified
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.seals import SealRows
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST
from tests.factory import ACCOUNT


def _auditor() -> ModuleType:
    """The auditor's file, as it is given away."""
    spec = importlib.util.spec_from_file_location("verify_seals", PROJECT_ROOT / "deploy/auditor/verify_seals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AUDITOR = _auditor()

BEGIN = datetime(2026, 11, 20, 21, tzinfo=UTC)
"""Three hours before a day ends."""


def row(hour: int, name: str, *, seen: datetime, text: str = "{}", account: str = ACCOUNT) -> dict[str, Any]:
    """An event of the hour so many after the begin."""
    fields = dict.fromkeys(EVENT_SCHEMA.names)
    own = {
        "event_id": name,
        "timestamp": BEGIN + HOUR * hour + timedelta(minutes=5),
        "account_id": account,
        "api_version": "v1",
        "raw_event": text,
        "ingestion_time": seen,
    }
    return {**fields, **own}


@dataclass
class MadeLake:
    """A folder lake, its chain of seals, and the copy of these in a real warehouse."""

    folder: Path
    rows: SealRows
    now: datetime = BEGIN + timedelta(hours=8)
    begin: datetime = BEGIN
    asks_warehouse: bool = True
    """False: what the lake's newest seal was, this host alone remembers."""
    dsn: str = ""
    """Of the warehouse."""
    alarms: Mapping[Any, Any] = field(default_factory=dict)
    """Of the last sealing."""

    @property
    def dataset(self) -> Path:
        """The folder that everything is in."""
        return self.folder / "lake" / "cloudflare"

    @property
    def key_file(self) -> Path:
        """The key's, outside the lake."""
        return self.folder / "seal.key"

    @cached_property
    def objects(self) -> Folder:
        """The lake's objects."""
        return Folder(self.folder / "lake", self.dataset)

    def chain(self) -> Chain:
        """The chain as a process sees it that has just started."""
        return Chain(self.objects, self.key_file, lambda: self.now, Memory(self.folder / "newest"))

    def init(self) -> str:
        """Makes the key, and returns the public one."""
        return str(initialise(self.chain(), self.key_file, "audit.example.com/lake"))

    @property
    def public_keys(self) -> list[Any]:
        """All that the key's file knows."""
        return read_key(self.key_file).trusted

    def path(self, hour: int) -> Path:
        """The object of an hour."""
        return self.dataset / Partition(ACCOUNT, BEGIN + HOUR * hour).path

    def held(self, hour: int) -> list[dict[str, Any]]:
        """The rows of an hour."""
        path = self.path(hour)
        return pa.parquet.read_table(path, partitioning=None).to_pylist() if path.exists() else []

    def put(self, hour: int, rows: Iterable[dict[str, Any]]) -> None:
        """Writes an hour's object, as it is from now on."""
        table = pa.Table.from_pylist(sorted(rows, key=lambda one: one["event_id"]), schema=EVENT_SCHEMA)
        write_file(self.folder / "lake", self.path(hour), encode(table))

    def add(self, hour: int, *names: str, text: str = "{}", seen: datetime | None = None) -> None:
        """Loads events into an hour, first seen now."""
        new = [row(hour, name, seen=seen or self.now, text=text) for name in names]
        self.put(hour, [*self.held(hour), *new])

    def leaf(self, hour: int, name: str) -> bytes:
        """The leaf of an event that is there."""
        rows = leaf_rows(self.path(hour).read_bytes())
        leaves: dict[str, bytes] = dict(zip(rows["event_id"].to_pylist(), leaves_of(rows), strict=True))
        return leaves[name]

    def seal(self, *, chain: Chain | None = None, meanwhile: Callable[[], object] = lambda: None) -> Seal | None:
        """Seals what is closed and what has changed, as the loop does; something may happen before it is written."""
        chain = chain or self.chain()
        with self.sealing(chain) as sealing:
            seal = self._seal(chain, sealing, meanwhile)
        if seal is not None:
            with seal_index(self.folder / "index") as index:
                index.follow(chain, seal)
                add_bundle(self.objects, chain, index, seal)
        return seal

    def _seal(self, chain: Chain, sealing: Sealing, meanwhile: Callable[[], object]) -> Seal | None:
        closed = self.now - timedelta(hours=1)
        sealing.add_closed(ACCOUNT, ReadTo(self.begin, closed, {"v1": self.now.isoformat()}))
        sealing.add_changed(ACCOUNT, closed)
        self.alarms = {hour: found.verdict for (_, hour), found in sealing.entries.alarms.items()}
        base = chain.head()
        meanwhile()
        seal = append_entries(chain, sealing.entries, base)
        if seal is not None:
            complete_rows(self.rows, chain, seal)
        return seal

    @contextmanager
    def sealing(self, chain: Chain) -> Iterator[Sealing]:
        """What the loop's sealer does before it looks at any account."""
        head = chain.head()
        trusted = chain.key(head).trusted
        with seal_index(self.folder / "index") as index:
            if head is None:
                self.rows.follow([])
            else:
                if self.asks_warehouse and path_beyond(self.rows, head, trusted):
                    chain.note_restored("the warehouse knows a newer seal")
                index.follow(chain, head)
                complete_rows(self.rows, chain, head)
            yield Sealing(self.objects, chain, index, self.rows)

    def attack(self, sql: str, **values: object) -> None:
        """Changes the warehouse, as an attacker with the owner's password may."""
        self._execute(sql, {**values, "mine": self._incarnation})

    @property
    def _incarnation(self) -> str:
        head = self.chain().head()
        assert head is not None
        return head.header.incarnations[-1].id

    def lines(self) -> list[Any]:
        """The rows of this lake in the warehouse."""
        sql = "SELECT * FROM {schema}.audit_seals WHERE incarnation = %s ORDER BY number, line"
        return self._execute(sql, [self._incarnation])

    def compare(self, hour: int, checked_at: datetime) -> None:
        """Keeps the result of a comparison that found an hour complete."""
        columns = "account_id, api_version, hour, checked_at, status, api_events, warehouse_events, lake_events"
        columns += ", missing_in_warehouse, missing_in_lake, doubled_in_lake, api_digest"
        sql = f"INSERT INTO {{schema}}.audit_completeness ({columns})"
        sql += " VALUES (%s, 'v1', %s, %s, 'complete', 2, 2, 2, 0, 0, 0, '77')"
        self._execute(sql, [ACCOUNT, BEGIN + HOUR * hour, checked_at])

    def _execute(self, sql: str, values: Any) -> list[Any]:
        with psycopg2.connect(self.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(sql.replace("{schema}", f"seals_{os.getpid()}"), values)
            return cursor.fetchall() if cursor.description else []

    def amend(self, hour: int, *, removes: Iterable[bytes] | None = None, adds: Iterable[bytes] = ()) -> None:
        """Permits what a repair is going to do."""
        named = None if removes is None else tuple(removes)
        amendment = Amendment(ACCOUNT, BEGIN + HOUR * hour, named, tuple(adds), "repair", "reconcile.py --repair")
        self.chain().append(lambda _: ([amendment.as_entry()], b""))

    def verify(self, *, is_quick: bool = False, keys: Any = None, notes: Iterable[str] = ()) -> Verified:
        """Verifies it whole, or with a quick look."""
        scope = Scope(Window(EARLIEST, self.now), is_quick)
        place = FolderPlace(self.dataset)
        return Verification(place, self.public_keys if keys is None else keys, scope, self.now).run(notes)

    def replace_a_seal_by_one_of_another_history(self) -> None:
        """Puts seal 2 of a lake that was set back, signed by the same key, in the place of ours."""
        older = self.copy("older")
        (older.folder / "newest").unlink()
        older.asks_warehouse = self.asks_warehouse = False
        older.now += timedelta(hours=2)
        older.add(1, "late")
        older.seal()
        for _ in range(2):
            self.now += timedelta(hours=2)
            self.seal()
        self.seals[2].write_bytes(older.seals[2].read_bytes())

    def verdicts(self, **how: Any) -> dict[str, str]:
        """What is not simply intact, by hour, copy or seal; the auditor's file must agree."""
        found = self.verify(**how)
        words = words_of(found)
        if not how.get("is_quick"):
            self._agree(found, words, **how)
        return words

    def _agree(self, ours: Verified, words: dict[str, str], *, keys: Any = None, notes: Iterable[str] = ()) -> None:
        given = [str(key) for key in (self.public_keys if keys is None else keys)]
        theirs = AUDITOR.verify(self.dataset, given, notes, self.now)
        assert sorted(set(theirs["chain"])) == sorted({(one.kind, one.number) for one in ours.chain})
        problems = [one for one in ours.problems if "hour=" in one.path]
        assert {path: of for path, of in theirs["hours"].items() if of not in {"intact", "rewritten"}} == {
            one.path: one.verdict for one in problems
        }
        if "day copy" not in words:
            assert theirs["ok"] != ours.is_alarm

    def copy(self, name: str) -> "MadeLake":
        """The lake as it is now, in another place; files keep their times."""
        folder = self.folder.with_name(f"{self.folder.name}-{name}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        return MadeLake(folder, self.rows, self.now, self.begin, dsn=self.dsn)

    @property
    def seals(self) -> list[Path]:
        """The seals by number."""
        return sorted((self.dataset / "_seals").rglob("*.seal"), key=lambda path: path.name)


def words_of(found: Verified) -> dict[str, str]:
    """The findings, by what they are about: an hour's number, `day copy`, or a seal."""
    words = {f"seal {one.number}": one.kind for one in found.chain}
    for one in found.problems:
        parts = dict(part.split("=") for part in one.path.split("/") if "=" in part)
        if "hour" not in parts:
            words["day copy"] = one.verdict
            continue
        time = datetime.fromisoformat(f"{parts['date']}T{parts['hour']}:00+00:00")
        words[f"hour {(time - BEGIN) // HOUR}"] = one.verdict
    return words
