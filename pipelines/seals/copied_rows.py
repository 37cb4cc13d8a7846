"""The copy of the seals in the warehouse: made from the seals, completed after a kill. It proves nothing."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pipelines.host.logs import log
from pipelines.warehouse.seals import Row, SealRows, Stretch

from .chain import Chain
from .pure.notes import Checkpoint, NoteError, VerifierKey
from .pure.seal_format import Seal, as_text

_AT_ONCE = 2_000
"""Rows that are added by one statement."""


def complete_rows(rows: SealRows, chain: Chain, head: Seal, first: int = 0) -> None:
    """Adds the rows of all seals that have none, from a number on; the lake's seals count, and no others."""
    rows.follow(lineage_of(head))
    lacking = set(rows.lacking(first))
    if not lacking:
        return
    found: Iterator[tuple[str, Seal]] = iter([(chain.path, head)]) if lacking == {head.number} else chain.all()
    pending: list[Row] = []
    for path, seal in found:
        if seal.number in lacking:
            pending += rows_of(path, seal)
            lacking.discard(seal.number)
        while len(pending) >= _AT_ONCE:
            rows.add(pending[:_AT_ONCE])
            pending = pending[_AT_ONCE:]
    if pending:
        rows.add(pending)
    if lacking:
        hint = "deleted? see pipelines/verify.py"
        log.error("seal.missing", seals=len(lacking), first=min(lacking), hint=hint)


def path_beyond(rows: SealRows, head: Seal, trusted: Sequence[VerifierKey]) -> str | None:
    """The path of a seal that the lake had after its newest one, or in its place.

    A row proves nothing: it counts with the checkpoint of that seal alone, which a key of ours has signed.
    """
    foreign = 0
    for row in rows.beyond(head.header.incarnations[-1].id, head.number, head.digest):
        with suppress(NoteError):
            note = Checkpoint.parse(row["note"] or "")
            is_signed = any(note.is_signed_by(key) for key in trusted)
            if is_signed and note.size == row["number"] + 1 and note.root != head.tree.root:
                return str(row["path"])
        foreign += 1
    if foreign:
        log.error("seal.foreign_rows", rows=foreign, hint="audit_seals has rows of seals that nobody signed")
    return None


def lineage_of(head: Seal) -> list[Stretch]:
    """Returns the numbers that count of each incarnation."""
    begun = head.header.incarnations
    ends = [*(one.first for one in begun[1:]), head.number + 1]
    return [Stretch(one.id, one.first, end) for one, end in zip(begun, ends, strict=True)]


def rows_of(path: str, seal: Seal) -> list[Row]:
    """Returns the rows of a seal: the last is that of the seal itself, so that a part of them never counts as all."""
    common = {
        "incarnation": seal.header.incarnations[-1].id,
        "number": seal.number,
        "sealed_at": as_text(seal.header.sealed_at),
    }
    rows = [{**common, "line": line, **_of_entry(entry)} for line, entry in enumerate(seal.entries, 1)]
    note = seal.raw.partition(b"\n\n")[2].decode()
    own = {"kind": "seal", "events": len(seal.entries), "root": seal.tree.root.hex(), "path": path, "note": note}
    return [*rows, {**common, "line": 0, **own, "digest": seal.digest}]


def _of_entry(entry: dict[str, Any]) -> Row:
    about = {"account_id": entry.get("account"), "hour": entry.get("hour"), "why": entry.get("why")}
    if "compared" in entry:
        counts = {"events": len(entry["compared"]), "hour": entry["compared"][0][0]}
        return {**about, "kind": "compared", **counts, "checked_at": entry["checked_at"]}
    if "amends" in entry:
        removes = entry["amends"]["removes"]
        return {**about, "kind": "amendment", "removed": None if isinstance(removes, str) else len(removes)}
    if "seal" not in entry:
        return {**about, "kind": "rotation" if "rotate_to" in entry else "other"}
    found = entry["object"] or {}
    return {
        **about,
        "kind": "hour",
        "hour_seal": entry["seal"],
        "events": entry["events"],
        "root": entry["root"],
        "added": len(entry["added"]) if "added" in entry else entry["events"],
        "removed": len(entry.get("removed", ())),
        "object_bytes": found.get("bytes"),
        "object_version": found.get("version"),
    }
