"""The seals in the lake: reads and finds them, and appends one. Never replaces or deletes one.

The next seal can be at one place only (`Seal.next_path`), and it is created there on the condition that nothing is. So
of several sealers one finds it taken; it reads what came, and takes the next number. What was sealed last is also kept
beside the key, where an attacker on the lake is not: an older state of the lake is found out.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from pipelines.fetch.api import Clock
from pipelines.host.logs import log
from pipelines.lake.objects import ConflictError, Objects
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

from .key_file import SealKey, settled_key
from .pure.merkle import Tree
from .pure.notes import NoteError
from .pure.seal_format import (
    CHECKPOINT_PATH,
    FOLDER,
    Entry,
    Header,
    Incarnation,
    Seal,
    leaves_path,
    number_of,
    path_of,
    sealed,
)

PROGRAM = "cloudflare-audit-pipeline"
_ATTEMPTS = 50
_HELD_SEALS = 32

Prepare = Callable[[Seal | None], tuple[Sequence[Entry], bytes]]
"""Makes the entries of the seal after one, and the bytes of their leaves; called anew if another sealer was faster."""


class Seen(NamedTuple):
    """The newest seal that this host has seen."""

    path: str
    digest: str
    lake: str
    """Another lake has another chain."""


@dataclass(frozen=True)
class Memory:
    """A file on this host, beside the working directory, with the newest seal. Without it, less is found out."""

    file: Path

    def read(self) -> Seen | None:
        """Reads it; None if it is not there or says nothing."""
        with suppress(OSError, ValueError, TypeError):
            return Seen(**json.loads(self.file.read_text()))
        return None

    def write(self, seen: Seen) -> None:
        """Writes it whole."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{uuid4().hex}")
        temporary.write_text(json.dumps(seen._asdict()))
        temporary.replace(self.file)


class Chain:
    """The seals of a lake, as one of its sealers sees them. Used by one thread at a time."""

    def __init__(self, objects: Objects, key_file: Path, clock: Clock, memory: Memory | None = None) -> None:
        self._objects, self._key_file, self._clock, self._memory = objects, key_file, clock, memory
        self._head: Seal | None = None
        self._path = ""
        """The head's."""
        self._restored = ""
        """Why the next seal begins another incarnation."""
        self._held: dict[str, Seal] = {}

    def head(self) -> Seal | None:
        """Finds the newest seal; from the one that was found last on, by a request for each that is newer.

        Raises:
            AuditLogsError: what is there is not what it should be.
        """
        if self._head is None:
            self._find()
        while self._head is not None and (following := self._read_next(self._head)) is not None:
            if following.header.previous != self._head.digest:
                raise AuditLogsError(f"seal {following.number} does not follow on the one before it")
            self._path, self._head = self._head.next_path, following
        return self._head

    def key(self, head: Seal | None) -> SealKey:
        """The key that signs the next seal; this host remembers the head, once it is known to be ours.

        Raises:
            AuditLogsError: the file has another one.
        """
        key = self._key(head)
        if head is not None and head is self._head:
            self._remember()
        return key

    def _key(self, head: Seal | None) -> SealKey:
        if head is None:
            return settled_key(self._key_file, [])
        following = head.rotated_to
        key = settled_key(self._key_file, [following] if following else [])
        if not any(head.is_signed_by(trusted) for trusted in (key.past if following else key.trusted)):
            hint = "put the right key there; if it is lost: seal.py --lost-key"
            raise AuditLogsError("the newest seal was signed by another key", detail=self._path, hint=hint)
        if not (following or head.is_signed_by(key.signer.verifier)):
            raise AuditLogsError("the key was changed without a word in a seal", hint="seal.py --lost-key")
        return key

    def append(self, prepare: Prepare, *, with_key: SealKey | None = None, why: str = "") -> Seal | None:
        """Appends a seal of what `prepare` returns; None if that is nothing.

        `with_key` begins another incarnation under that key, because the old one is lost: `why` says so.

        Raises:
            TemporaryError: other sealers are faster all the time.
            AuditLogsError: the chain or the key is not as it should be.
        """
        for _ in range(_ATTEMPTS):
            head = self.head()
            entries, leaves = prepare(head)
            if not entries:
                return None
            key = with_key or self.key(head)
            seal = sealed(self._header(key, head, leaves, why=why or self._restored), entries, key.signer)
            path = head.next_path if head else path_of(0, seal.header.sealed_at)
            self._write_leaves(path, leaves)
            try:
                self._objects.create(path, seal.raw)
            except ConflictError:
                if head is None:
                    self._head = None
                if self._is_refused(path):
                    raise AuditLogsError(f"the store does not create {path}, which is not there") from None
                continue
            self._head, self._path, self._restored = seal, path, ""
            self._remember()
            self._show_checkpoint(seal)
            return seal
        raise TemporaryError("other sealers are faster all the time", detail=f"{_ATTEMPTS} conflicts in a row")

    def read(self, path: str) -> Seal | None:
        """Reads a seal; None if there is none. Raises NoteError if it is none, or no key of ours has signed it."""
        if (seal := self._held.get(path) or self._seal_at(path)) is not None:
            if len(self._held) >= _HELD_SEALS:
                self._held.clear()
            self._held[path] = seal
        return seal

    def read_good(self, path: str) -> Seal | None:
        """Reads a seal; None if there is none, or something else."""
        with suppress(NoteError):
            return self._seal_at(path)
        log.error("seal.broken", path=path, hint="see pipelines/verify.py")
        return None

    def read_leaves(self, path: str, seal: Seal) -> bytes | None:
        """Reads the leaves beside a seal; None if they are not there, or not those that it names."""
        stored = self._objects.read(leaves_path(path, seal.header.leaves)) if seal.header.leaves else None
        is_it = stored is not None and sha256(stored.body).hexdigest() == seal.header.leaves
        return stored.body if stored and is_it else None

    def all(self) -> Iterator[tuple[str, Seal]]:
        """Yields all seals with their paths, in the order of their numbers, by one listing; leaves out what is none."""
        for found in sorted(self._objects.listing(FOLDER), key=lambda one: number_of(one) or 0):
            if number_of(found) is not None and (seal := self.read_good(found)):
                yield found, seal

    @property
    def path(self) -> str:
        """The head's."""
        return self._path

    def lose_head(self) -> None:
        """Looks for the head anew the next time."""
        self._head = None

    def note_restored(self, why: str) -> None:
        """From the next seal on, there is another incarnation."""
        if not self._restored:
            self._restored = why
            log.error(
                "seal.restored", error=why, hint="was the bucket restored, or seals deleted? docs/evidence/seals.md"
            )

    def _find(self) -> None:
        seen = self._memory.read() if self._memory else None
        seen = seen if seen and seen.lake == self._objects.url("") else None
        if seen is not None and (stored := self._objects.read(seen.path)) is not None:
            if sha256(stored.body).hexdigest() == seen.digest:
                self._head, self._path = Seal.parse(stored.body), seen.path
                return
            self.note_restored(f"{seen.path} is another seal than the one that was written")
        elif seen is not None:
            self.note_restored(f"{seen.path}, the newest seal until then, is gone")
        paths = {number: path for path in self._objects.listing(FOLDER) if (number := number_of(path)) is not None}
        if paths:
            self._path = paths[max(paths)]
            self._head = self._seal_at(self._path)

    def _read_next(self, head: Seal) -> Seal | None:
        return self._seal_at(head.next_path)

    def _seal_at(self, path: str) -> Seal | None:
        stored = self._objects.read(path)
        if stored is None:
            return None
        try:
            return Seal.parse(stored.body)
        except NoteError as error:
            raise NoteError(f"{path} is no seal of ours", detail=error.message) from error

    def _header(self, key: SealKey, head: Seal | None, leaves: bytes, *, why: str) -> Header:
        number = head.number + 1 if head else 0
        begun = (Incarnation(str(uuid4()), number, why),) if why or head is None else ()
        return Header(
            origin=key.signer.name,
            number=number,
            sealed_at=max(self._clock(), head.header.sealed_at) if head else self._clock(),
            previous=head.digest if head else "",
            incarnations=(*(head.header.incarnations if head else ()), *begun),
            frontier=(head.tree if head else Tree()).frontier,
            software=version(PROGRAM),
            leaves=sha256(leaves).hexdigest() if leaves else "",
        )

    def _write_leaves(self, path: str, leaves: bytes) -> None:
        """Before the seal, which names them: what a kill leaves behind is used by the next attempt, or by nobody."""
        if leaves:
            with suppress(ConflictError):
                self._objects.create(leaves_path(path, sha256(leaves).hexdigest()), leaves)

    def _is_refused(self, path: str) -> bool:
        """True if the store refused to create what is not there: not another sealer."""
        self._objects.learn()
        return self._objects.read(path) is None

    def _remember(self) -> None:
        if (
            self._memory
            and self._head
            and (seen := Seen(self._path, self._head.digest, self._objects.url(""))) != self._memory.read()
        ):
            self._memory.write(seen)

    def _show_checkpoint(self, seal: Seal) -> None:
        note = seal.raw.partition(b"\n\n")[2]
        stored = self._objects.read(CHECKPOINT_PATH)
        with suppress(ConflictError):  # another sealer's is newer
            self._objects.write(CHECKPOINT_PATH, note, stored.version if stored else None)
